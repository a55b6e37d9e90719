package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The log goes to a file on a disk that is full. Once there is room it goes on.
func TestNeverInTheWayOnAFullDisk(t *testing.T) {
	t.Parallel()
	i := newFaultyInstance(t)
	s := i.startStream(t, 4)
	disk, err := os.MkdirTemp(scratch, "disk")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	log, err := os.OpenFile(filepath.Join(disk, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	b := i.launchBridgeLoggingTo(t, log)
	s.awaitBridged(t, 10*time.Second)

	var full unix.Statfs_t
	await(t, "the disk is full", 10*time.Second, func() bool {
		return unix.Statfs(disk, &full) == nil && full.Bfree == 0
	})
	without := hang(func() (resume func()) {
		return func() {
			if err := log.Truncate(0); err != nil {
				t.Fatal(err)
			}
		}
	})
	await(t, "the log goes on", 5*time.Second, func() bool {
		file, err := log.Stat()
		return err == nil && file.Size() > 0
	})
	i.checkUnharmed(t, s, b, "disk full", without)
}

// The log goes to a pipe that nobody reads, as when journald hangs.
func TestNeverInTheWayWhenItsLogIsStuck(t *testing.T) {
	t.Parallel()
	i := newFaultyInstance(t)
	s := i.startStream(t, 4)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	if _, err := unix.FcntlInt(writer.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
		t.Fatal(err)
	}
	b := i.launchBridgeLoggingTo(t, writer)
	s.awaitBridged(t, 10*time.Second)
	i.checkUnharmed(t, s, b, "log stuck", hang(func() (resume func()) { return func() {} }))
}

// launchBridgeLoggingTo lets a file take all that the bridge has to say. It is killed at the end of the
// test, if it lives by then.
func (i *instance) launchBridgeLoggingTo(t *testing.T, log *os.File) *bridge {
	t.Helper()
	b := &bridge{exited: make(chan struct{})}
	b.cmd = command(t, "run", "--redirect.cgroup="+i.Cgroup(), "--admin.listen=", "--log.level=debug")
	b.cmd.Stdout, b.cmd.Stderr = log, log
	if err := i.Host().Start(b.cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = b.cmd.Wait() // how it ended is in ProcessState
		close(b.exited)
	}()
	t.Cleanup(func() {
		_ = b.cmd.Process.Kill()
		<-b.exited
	})
	return b
}

// checkUnharmed wants each call in a period, and at the end of the bridge, to be answered, and those of
// the period by the bridge. It ends in time.
func (i *instance) checkUnharmed(t *testing.T, s *stream, b *bridge, fault string, during period) {
	t.Helper()
	b.terminate()
	select {
	case <-b.exited:
	case <-time.After(15 * time.Second):
		t.Error("SIGTERM did not end the bridge")
	}
	time.Sleep(200 * time.Millisecond)
	made := s.stop(t)
	o := outcome{Fault: fault, Times: 1, Straight: unknown, Back: unknown}
	o.count(made)
	o.tell(t)
	checkLost(t, made, nil)
	if lost := made.within(during).that(call.straight); len(lost) > 0 {
		t.Errorf("not upgraded: %s", lost)
	}
}
