package caller

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoProcess is what [Reader.Running] returns for a pid that no process has, or one that has ended.
var ErrNoProcess = errors.New("no such process")

// Running names a process that runs now, whether or not it has made a connection. The number of a
// thread names its process. What only the kernel's record of a connection has (ExecID, CgroupID and
// NetNSCookie) is zero, as is NetNS where it may not be read.
//
// Errors wrap [ErrNoProcess], or fs.ErrPermission for a process that /proc hides from us.
func (r *Reader) Running(pid int) (*Caller, error) {
	o, err := r.originOf(pid)
	if err != nil {
		return nil, fmt.Errorf("read process %d: %w", pid, err)
	}
	c := r.Caller(o)
	if c.Complete {
		return c, nil
	}
	if _, err := r.originOf(pid); err != nil { // it ended meanwhile
		return nil, fmt.Errorf("read process %d: %w", pid, err)
	}
	return nil, fmt.Errorf("read process %d: %s does not answer, or another process has taken its place", pid, r.proc)
}

// originOf is the record of a process, as far as /proc can take the kernel's place.
func (r *Reader) originOf(pid int) (o Origin, err error) {
	buf := make([]byte, maxFile)
	p := processAt(r.proc, pid)
	text, err := p.read("/status", buf)
	if err != nil {
		return o, r.whyNot(pid, err)
	}
	leader := int(field(text, "Tgid"))
	if leader == 0 {
		return o, errors.New("malformed status")
	}
	o.PID, o.TID = uint32(leader), uint32(leader)
	o.UID, o.GID = field(text, "Uid"), field(text, "Gid")
	p = processAt(r.proc, leader)
	s, err := p.stat(buf)
	if err != nil {
		return o, r.whyNot(leader, err)
	}
	if s.dead {
		return o, fmt.Errorf("%w: it has ended, and its parent has not taken notice", ErrNoProcess)
	}
	o.PPID, o.Comm = uint32(s.ppid), s.comm
	o.Started = r.clock.sinceBoot(s.started)
	o.NetNS = p.netNS(buf)
	return o, nil
}

// whyNot says why a file of a process cannot be read. A /proc mounted with hidepid=2 has no such
// file; a signal tells whether there is a process all the same.
func (r *Reader) whyNot(pid int, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), r.proc == "/proc" && errors.Is(unix.Kill(pid, 0), unix.EPERM) && errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: /proc hides it from this user (hidepid)", fs.ErrPermission)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
		return ErrNoProcess
	}
	return err
}

// field is the first number of a line in /proc/<pid>/status: of Uid and Gid the real one, as the
// kernel's record has it.
func field(status []byte, name string) uint32 {
	_, rest, _ := bytes.Cut(status, []byte("\n"+name+":"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	for number := range bytes.FieldsSeq(line) {
		n, _ := strconv.ParseUint(string(number), 10, 32)
		return uint32(n)
	}
	return 0
}

// netNS is the inode number of the process's network namespace; 0 where that may not be read.
func (p process) netNS(buf []byte) uint32 {
	n, err := unix.Readlink(string(p)+"/ns/net", buf)
	if err != nil {
		return 0
	}
	number, _ := strings.CutPrefix(strings.TrimSuffix(string(buf[:n]), "]"), "net:[")
	inode, _ := strconv.ParseUint(number, 10, 32)
	return uint32(inode)
}

// sinceBoot is a time of /proc/<pid>/stat as the kernel's record has it, to the tick.
func (c clock) sinceBoot(ticks uint64) time.Duration {
	return time.Duration(ticks)*userTick - c.offset
}
