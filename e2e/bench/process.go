package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// family is a process and its children: nginx works in its children.
func family(root *os.Process) []int {
	if root == nil {
		return nil
	}
	pids := []int{root.Pid}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", root.Pid))
	if err != nil {
		return pids
	}
	for _, field := range strings.Fields(string(children)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// cpuTime is what all threads of the processes used so far, those that have ended included.
func cpuTime(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		// CPUCLOCK_SCHED of a process: exact to the nanosecond, where /proc counts in ticks of 10 ms.
		// The kernel's UAPI has no name for it; see clock_getcpuclockid(3).
		clock := int32(^pid<<3 | 2)
		var t unix.Timespec
		if err := unix.ClockGettime(clock, &t); err != nil {
			return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}

// resident is the sum of the processes' resident sets, in bytes. Pages that they share count for each.
func resident(pids []int) (sum int64, err error) {
	for _, pid := range pids {
		kib, err := statusField(pid, "VmRSS:")
		if err != nil {
			return 0, fmt.Errorf("read the resident set of process %d: %w", pid, err)
		}
		sum += kib << 10
	}
	return sum, nil
}

func statusField(pid int, name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("no line %s", name)
}
