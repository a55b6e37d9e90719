package owner

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// userTick is the unit of times in /proc/<pid>/stat: USER_HZ is 100 on every architecture we build for.
const userTick = 10 * time.Millisecond

// process is what /proc tells of one.
type process struct {
	pid, ppid uint32
	uids      [4]uint32 // real, effective, saved, of the file system
	gid       uint32    // real
	comm      string
	started   time.Duration
	execID    uint64
	cgroupID  uint64
}

func (p process) fill(c *redirect.Connection) {
	c.PID, c.PPID = p.pid, p.ppid
	c.UID, c.GID = p.uids[0], p.gid
	c.Comm = p.comm
	c.Started = p.started
	c.ExecID = p.execID
	c.CgroupID = p.cgroupID
}

func (p process) isUser(uid uint32) bool {
	for _, u := range p.uids {
		if u == uid {
			return true
		}
	}
	return false
}

var errMalformed = errors.New("malformed file in /proc")

// identity is a process with the user and group that its directory in /proc is of: the effective ones.
type identity struct {
	pid, uid, gid uint32
	started       time.Duration
	execID        uint64
}

// details are what is remembered of a process.
type details struct {
	uids     [4]uint32
	gid      uint32
	cgroup   string // as in /proc/<pid>/cgroup
	cgroupID uint64
}

// complete reads what stat does not tell. The ids are in /proc/<pid>/status alone, which takes longer to read
// than all the rest: what is known of the same program under the same effective ids is not read
// again. A process that has changed its real ones alone since is shown with those of before.
func (s *search) complete(p *process) error {
	directory := strconv.Itoa(int(p.pid))
	var st unix.Stat_t
	if err := unix.Fstatat(int(s.proc.Fd()), directory, &st, 0); err != nil {
		return err
	}
	key := identity{p.pid, st.Uid, st.Gid, p.started, p.execID}
	d, known := s.known.Get(key)
	var buf [4096]byte
	if known {
		p.uids, p.gid = d.uids, d.gid
	} else {
		text, err := s.read(directory+"/status", buf[:])
		if err != nil {
			return err
		}
		if err := p.parseStatus(text); err != nil {
			return err
		}
	}
	// A living process keeps its cgroup, and the path that of no other.
	text, err := s.read(directory+"/cgroup", buf[:])
	if err == nil && known && d.cgroup == string(text) {
		p.cgroupID = d.cgroupID
		return nil
	}
	p.cgroupID = s.cgroupID(text)
	if p.execID != 0 {
		s.known.Add(key, details{p.uids, p.gid, string(text), p.cgroupID})
	}
	return nil
}

// stat reads what is wanted of /proc/<pid>/stat.
func (s *search) stat(pid int) (process, error) {
	p := process{pid: uint32(pid)}
	var buf [1024]byte
	text, err := s.read(strconv.Itoa(pid)+"/stat", buf[:])
	if err != nil {
		return p, err
	}
	return p, p.parseStat(text, s.clock)
}

// commEscapes are how the kernel writes two characters of a name there (proc_task_name in fs/proc/array.c).
var commEscapes = strings.NewReplacer(`\n`, "\n", `\\`, `\`)

// parseStat reads the fields of proc_pid_stat(5). The name in its second field may hold anything,
// brackets and line breaks too, so the last bracket ends it.
func (p *process) parseStat(text []byte, offset time.Duration) error {
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return errMalformed
	}
	p.comm = commEscapes.Replace(string(text[open+1 : end]))
	image, known := uint64(fnvOffset), false
	number := 2
	for rest := bytes.TrimSpace(text[end+1:]); len(rest) > 0; {
		var field []byte
		field, rest, _ = bytes.Cut(rest, []byte(" "))
		number++
		switch number {
		case 4:
			p.ppid = uint32(parseNumber(field))
		case 22:
			p.started = time.Duration(parseNumber(field))*userTick - offset
		// Where program, stack, heap, arguments and environment lie: all at other places after exec
		// where the kernel randomises them, and some at others where program or arguments differ.
		// 0 or 1 to those who may not know.
		case 26, 27, 28, 45, 46, 47, 48, 49, 50, 51:
			known = known || len(field) > 1
			image = (image ^ parseNumber(field)) * fnvPrime
		}
	}
	if number < 22 {
		return errMalformed
	}
	if known {
		p.execID = image
	}
	return nil
}

// The constants of the hash FNV-1a.
const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

// parseNumber reads a number that the kernel wrote.
func parseNumber(digits []byte) (n uint64) {
	for _, d := range digits {
		n = n*10 + uint64(d-'0')
	}
	return n
}

// parseStatus reads the ids of proc_pid_status(5), as our user namespace numbers them.
func (p *process) parseStatus(text []byte) error {
	uids, err := idsAfter(text, "\nUid:")
	if err != nil {
		return err
	}
	gids, err := idsAfter(text, "\nGid:")
	p.uids, p.gid = uids, gids[0]
	return err
}

func idsAfter(text []byte, name string) (ids [4]uint32, err error) {
	_, after, ok := bytes.Cut(text, []byte(name))
	if !ok {
		return ids, errMalformed
	}
	line, _, _ := bytes.Cut(after, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) != len(ids) {
		return ids, errMalformed
	}
	for i, field := range fields {
		id, err := strconv.ParseUint(string(field), 10, 32)
		if err != nil {
			return ids, errMalformed
		}
		ids[i] = uint32(id)
	}
	return ids, nil
}

// cgroupID is the inode number of a process's cgroup2 directory, 0 where that is out of sight: not
// mounted, removed, or above the cgroup namespace we are in.
func (f *Finder) cgroupID(text []byte) uint64 {
	for line := range bytes.Lines(text) {
		path, ok := bytes.CutPrefix(bytes.TrimRight(line, "\n"), []byte("0::"))
		if !ok || f.cgroup == "" || bytes.HasPrefix(path, []byte("/..")) {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(f.cgroup+string(path), &st) == nil {
			return st.Ino
		}
	}
	return 0
}

// leader is the number of the process that a number is of: /proc has directories for threads too, and
// does not list them.
func (s *search) leader(pid int) int {
	var buf [2048]byte
	text, err := s.read(strconv.Itoa(pid)+"/status", buf[:])
	if err != nil {
		return pid
	}
	_, after, _ := bytes.Cut(text, []byte("\nTgid:"))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	if tgid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil {
		return tgid
	}
	return pid
}

// bootOffset is what our time namespace adds to CLOCK_BOOTTIME, in /proc too; the kernel's own records
// are without it.
func bootOffset() time.Duration {
	text, err := os.ReadFile("/proc/self/timens_offsets")
	if err != nil {
		return 0 // a kernel without time namespaces
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "boottime" {
			continue
		}
		seconds, _ := strconv.ParseInt(fields[1], 10, 64)
		nanoseconds, _ := strconv.ParseInt(fields[2], 10, 64)
		return time.Duration(seconds)*time.Second + time.Duration(nanoseconds)
	}
	return 0
}
