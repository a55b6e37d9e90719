package caller

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userTick is the unit of times in /proc/<pid>/stat: USER_HZ is 100 on every architecture we build for.
const userTick = 10 * time.Millisecond

// clock turns the kernel's times since boot into those of /proc and of the wall.
type clock struct {
	// offset is what our time namespace adds to CLOCK_BOOTTIME, in /proc too. The kernel's record is
	// without it.
	offset time.Duration
}

func newClock(proc string) clock {
	offsets, err := os.ReadFile(proc + "/self/timens_offsets")
	if err != nil {
		return clock{} // a kernel without time namespaces
	}
	for line := range strings.Lines(string(offsets)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "boottime" {
			continue
		}
		seconds, _ := strconv.ParseInt(fields[1], 10, 64)
		nanoseconds, _ := strconv.ParseInt(fields[2], 10, 64)
		return clock{time.Duration(seconds)*time.Second + time.Duration(nanoseconds)}
	}
	return clock{}
}

// ticks is the time since boot t as /proc/<pid>/stat shows it, which cuts and does not round.
func (c clock) ticks(t time.Duration) uint64 { return uint64((t + c.offset) / userTick) }

// wall is the time since boot t by the wall clock.
func (c clock) wall(t time.Duration) time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}
	}
	return time.Now().Round(0).Add(t + c.offset - time.Duration(now.Nano()))
}
