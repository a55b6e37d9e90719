package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is one of a test's own on the host of an instance, such as dockerd. Those of its host's
// directories that it and its helpers write to whatever they are told are its own, and outlive it.
type daemon struct {
	instance *instance
	name     string
	dir      string
	socket   string
	args     []string

	process *exec.Cmd
	exited  chan error
}

// private gives a daemon the directories below the first argument in place of the host's.
const private = `own=$1; shift
for d in run var/lib var/cache var/tmp; do mkdir -p "$own/$d" && mount --bind "$own/$d" "/$d" || exit 1; done
exec "$@"`

// newDaemon is of one that listens on a unix socket, and keeps what it has below a directory. It is
// ended with the test.
func (i *instance) newDaemon(t *testing.T, name, dir, socket string, args ...string) *daemon {
	t.Helper()
	d := &daemon{instance: i, name: name, dir: dir, socket: socket, args: args}
	t.Cleanup(func() {
		if d.process != nil {
			d.stop(t)
		}
		if log, err := os.ReadFile(d.log()); t.Failed() && err == nil {
			t.Logf("%s:\n%s", name, log[max(0, len(log)-10_000):])
		}
	})
	return d
}

func (d *daemon) log() string { return filepath.Join(d.dir, "log") }

// start starts it, and waits until it listens.
func (d *daemon) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(d.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.process = exec.Command("sh", append([]string{"-c", private, "private", filepath.Join(d.dir, "own")}, d.args...)...)
	d.process.Stdout, d.process.Stderr = log, log
	d.process.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := d.instance.Host().Start(d.process); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func(p *exec.Cmd) { exited <- p.Wait() }(d.process)
	d.exited = exited
	await(t, d.name+" listens", 20*time.Second, func() bool {
		conn, err := net.Dial("unix", d.socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// stop tells it to end.
func (d *daemon) stop(t *testing.T) {
	t.Helper()
	_ = d.process.Process.Signal(syscall.SIGTERM)
	var err error
	select {
	case err = <-d.exited:
	case <-time.After(20 * time.Second):
		_ = d.process.Process.Kill()
		err = <-d.exited
	}
	if d.process = nil; err != nil {
		t.Errorf("%s: %v", d.name, err)
	}
}

// kill ends it without a warning.
func (d *daemon) kill(t *testing.T) {
	t.Helper()
	if err := d.process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-d.exited
	d.process = nil
}

// socketDir is for what has a unix socket: t.TempDir is too long for one.
func socketDir(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
