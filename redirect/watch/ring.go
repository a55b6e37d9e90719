package watch

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// drainLimit is how many packets are handed on at a time.
const drainLimit = 256

// ring is the ring buffer of packets. It is waited for with Go's own poller: the one of [ringbuf.Reader]
// blocks a thread in the kernel, and with it all others of a process that has one processor, until the
// runtime's monitor looks.
type ring struct {
	reader *ringbuf.Reader
	ready  *os.File // of the map
	poll   syscall.RawConn
	record ringbuf.Record
}

func openRing(packets *ebpf.Map) (*ring, error) {
	fd, err := unix.FcntlInt(uintptr(packets.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate its file: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // what the poller asks of a file; nothing reads this one
		return nil, errors.Join(err, unix.Close(fd))
	}
	r := &ring{ready: os.NewFile(uintptr(fd), "ring of packets")}
	if r.poll, err = r.ready.SyscallConn(); err == nil {
		r.reader, err = ringbuf.NewReader(packets)
	}
	if err != nil {
		return nil, errors.Join(err, r.ready.Close())
	}
	r.reader.SetDeadline(time.Unix(1, 0)) // it never waits
	return r, nil
}

// wait returns when there are packets, or after the deadline unless that is zero. It returns false after
// end: no more come.
func (r *ring) wait(deadline time.Time) (more bool) {
	if r.ready.SetReadDeadline(deadline) != nil {
		return false
	}
	err := r.poll.Read(func(uintptr) bool { return r.reader.AvailableBytes() > 0 })
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded)
}

// drain hands on packets that are there, up to a limit that leaves time for other work. Each is valid
// until the next. It tells whether it left none.
func (r *ring) drain(add func([]byte)) (empty bool) {
	for range drainLimit {
		if r.reader.ReadInto(&r.record) != nil {
			return true
		}
		add(r.record.RawSample)
	}
	return false
}

// end has wait return.
func (r *ring) end() error { return r.ready.Close() }

// close is for after end, when nobody waits or drains any longer.
func (r *ring) close() error { return r.reader.Close() }
