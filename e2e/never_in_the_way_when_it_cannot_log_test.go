package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The log goes to a file on a disk that is full. Once there is room it goes on.
func TestNeverInTheWayOnAFullDisk(t *testing.T) {
	t.Parallel()
	withEach(t, false, checkFullDisk)
}

func TestFailClosedOnAFullDisk(t *testing.T) {
	t.Parallel()
	withEach(t, true, checkFullDisk)
}

func checkFullDisk(t *testing.T, s setting) {
	t.Parallel()
	i := newFaultyInstance(t)
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
	b, callers := s.beginLoggingTo(t, i, log)

	var full unix.Statfs_t
	await(t, "the disk is full", 10*time.Second, func() bool {
		return unix.Statfs(disk, &full) == nil && full.Bfree == 0
	})
	without := s.hang(func() (resume func()) {
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
	s.checkUnharmed(t, callers, b, "disk full", without)
}

// The log goes to a pipe that nobody reads, as when journald hangs.
func TestNeverInTheWayWhenItsLogIsStuck(t *testing.T) {
	t.Parallel()
	i := newFaultyInstance(t)
	s := setting{redirector: redirectors[0]}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	if _, err := unix.FcntlInt(writer.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
		t.Fatal(err)
	}
	b, callers := s.beginLoggingTo(t, i, writer)
	s.checkUnharmed(t, callers, b, "log stuck", s.hang(func() (resume func()) { return func() {} }))
}

// beginLoggingTo is begin with a bridge whose log goes to a file, and is long.
func (s setting) beginLoggingTo(t *testing.T, i *instance, log *os.File) (b *bridge, callers *stream) {
	t.Helper()
	if s.closed {
		i.closes(t)
		b = i.launchBridgeLoggingTo(t, s, log)
		await(t, "the bridge is ready", 10*time.Second, func() bool {
			said, err := os.ReadFile(log.Name())
			return err == nil && bytes.Contains(said, []byte(`"msg":"ready"`))
		})
	}
	callers = i.startStream(t, 4)
	if !s.closed {
		b = i.launchBridgeLoggingTo(t, s, log)
	}
	callers.awaitBridged(t, 10*time.Second)
	return b, callers
}

// launchBridgeLoggingTo lets a file take all that the bridge has to say. It is killed at the end of the
// test, if it lives by then.
func (i *instance) launchBridgeLoggingTo(t *testing.T, s setting, log *os.File) *bridge {
	t.Helper()
	b := &bridge{exited: make(chan struct{})}
	flags := append([]string{"run", "--redirect.cgroup=" + i.Cgroup(), "--admin.listen="}, s.options().flags...)
	b.cmd = command(t, append(flags, "--log.level=debug")...)
	b.cmd.Env = append(b.cmd.Env, "RUNTIME_DIRECTORY="+i.runtime)
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

// checkUnharmed wants each call in a period to be answered by the bridge, and none to be lost at its end,
// which comes in time.
func (s setting) checkUnharmed(t *testing.T, callers *stream, b *bridge, fault string, during period) {
	t.Helper()
	b.terminate()
	select {
	case <-b.exited:
	case <-time.After(15 * time.Second):
		t.Error("SIGTERM did not end the bridge")
	}
	time.Sleep(200 * time.Millisecond)
	made := callers.stop(t)
	o := s.outcome(fault, 1)
	o.count(made)
	o.tell(t)
	s.checkLost(t, made, nil)
	if away := made.within(during).that(s.away); len(away) > 0 {
		t.Errorf("found no bridge: %s", away)
	}
}
