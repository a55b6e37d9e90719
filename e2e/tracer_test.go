package e2e

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracer is a thread that holds up others with ptrace(2), which knows a tracer by its thread.
type tracer struct {
	work chan func()
	held []int
}

// trace runs f on a thread of its own. What f holds goes on when the tracer ends, at the end of the test
// at the latest.
func trace(t *testing.T, f func(*tracer) error) *tracer {
	t.Helper()
	tr := &tracer{work: make(chan func())}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for f := range tr.work {
			f()
		}
	}()
	t.Cleanup(tr.end)
	var err error
	tr.do(func() { err = f(tr) })
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func (tr *tracer) do(f func()) {
	done := make(chan struct{})
	tr.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// end lets all threads go on. It may be called again.
func (tr *tracer) end() {
	if tr.work == nil {
		return
	}
	tr.do(func() {
		for _, thread := range tr.held {
			_ = unix.PtraceDetach(thread) // it may have ended
		}
	})
	close(tr.work)
	tr.work = nil
}

// hold stops a thread.
func (tr *tracer) hold(thread int) error {
	if err := seize(thread); err != nil {
		return err
	}
	tr.held = append(tr.held, thread)
	_, err := wait(thread, 0)
	return err
}

// seize asks a thread to stop for us, soon.
func seize(thread int) error {
	if err := unix.PtraceSeize(thread); err != nil {
		return fmt.Errorf("seize thread %d: %w", thread, err)
	}
	if err := unix.PtraceSetOptions(thread, unix.PTRACE_O_TRACESYSGOOD); err != nil && err != unix.ESRCH { // not stopped yet
		return err
	}
	if err := unix.PtraceInterrupt(thread); err != nil {
		return fmt.Errorf("interrupt thread %d: %w", thread, err)
	}
	return nil
}

func wait(thread, options int) (status unix.WaitStatus, err error) {
	for {
		got, err := unix.Wait4(thread, &status, unix.WALL|options, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait for thread %d: %w", thread, err)
		case got == 0:
			return 0, errNotStopped
		default:
			return status, nil
		}
	}
}

var errNotStopped = errors.New("not stopped")

// holdAccept stops the thread of the bridge that is the next to accept a connection of a family, just
// before it does, and lets all others go on. It may be one that came since it looked: then it looks again.
func (tr *tracer) holdAccept(b *bridge, family int) error {
	for range 5 {
		threads, err := b.listThreads()
		if err != nil {
			return err
		}
		if err := tr.holdAcceptAmong(b, threads, family); !errors.Is(err, errNoneAccepts) {
			return err
		}
	}
	return errNoneAccepts
}

var errNoneAccepts = errors.New("no thread accepts")

func (tr *tracer) holdAcceptAmong(b *bridge, threads []int, family int) (err error) {
	for _, thread := range threads {
		if err := seize(thread); err != nil {
			return err
		}
	}
	defer func() {
		for _, thread := range threads {
			if !slices.Contains(tr.held, thread) {
				err = errors.Join(err, release(thread))
			}
		}
	}()
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Microsecond) {
		for _, thread := range threads {
			status, err := wait(thread, unix.WNOHANG)
			if errors.Is(err, errNotStopped) {
				continue
			}
			if err != nil {
				return err
			}
			accepts, err := b.accepts(thread, family)
			if err != nil {
				return err
			}
			if accepts {
				tr.held = append(tr.held, thread)
				return nil
			}
			if err := goOn(thread, status); err != nil {
				return err
			}
		}
	}
	return errNoneAccepts
}

// goOn lets a stopped thread run to the next system call, with the signal that it was stopped for.
func goOn(thread int, status unix.WaitStatus) error {
	if err := unix.PtraceSetOptions(thread, unix.PTRACE_O_TRACESYSGOOD); err != nil {
		return err
	}
	signal := 0
	if s := status.StopSignal(); status.TrapCause() != unix.PTRACE_EVENT_STOP && s&^0x80 != syscall.SIGTRAP {
		signal = int(s)
	}
	return unix.PtraceSyscall(thread, signal)
}

// release detaches from a thread, which must be stopped for that.
func release(thread int) error {
	if err := unix.PtraceDetach(thread); err == nil {
		return nil
	}
	if err := unix.PtraceInterrupt(thread); err != nil {
		return err
	}
	if _, err := wait(thread, 0); err != nil {
		return err
	}
	return unix.PtraceDetach(thread)
}

// accepts tells whether a stopped thread is about to accept from a listener of a family.
func (b *bridge) accepts(thread, family int) (bool, error) {
	const (
		getSyscallInfo = 0x420e // PTRACE_GET_SYSCALL_INFO
		entry          = 1      // PTRACE_SYSCALL_INFO_ENTRY
	)
	var info struct {
		op     uint8
		_      [3]uint8
		arch   uint32
		ip, sp uint64
		number uint64
		args   [6]uint64
	}
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(thread),
		unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 {
		return false, os.NewSyscallError("ask for the system call of a thread", errno)
	}
	if info.op != entry || info.number != unix.SYS_ACCEPT4 {
		return false, nil
	}
	pidfd, err := unix.PidfdOpen(b.cmd.Process.Pid, 0)
	if err != nil {
		return false, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(pidfd)
	listener, err := unix.PidfdGetfd(pidfd, int(info.args[0]), 0)
	if err != nil {
		return false, os.NewSyscallError("pidfd_getfd", err)
	}
	defer unix.Close(listener)
	domain, err := unix.GetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_DOMAIN)
	return domain == family, os.NewSyscallError("getsockopt", err)
}
