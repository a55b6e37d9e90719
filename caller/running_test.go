package caller

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A running process is named as its calls are.
func TestRunning(t *testing.T) {
	t.Parallel()
	p := start(t, "stay", nil)
	r := newReader(t, Options{})
	got, err := r.Running(p.pid)
	if err != nil {
		t.Fatal(err)
	}
	want := r.Caller(origin(t, p.pid))
	if !got.Complete || got.Executable != want.Executable || got.PPID != uint32(os.Getpid()) || got.UID != want.UID ||
		got.GID != want.GID || got.Comm != want.Comm || got.User != want.User || got.NetNS == 0 {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if off := got.Started.Sub(want.Started).Abs(); off > time.Second {
		t.Errorf("started %s apart", off)
	}
}

// The number of a thread names its process.
func TestRunningThread(t *testing.T) {
	t.Parallel()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	var thread int
	for _, task := range tasks {
		if n, err := strconv.Atoi(task.Name()); err == nil && n != os.Getpid() {
			thread = n
		}
	}
	c, err := newReader(t, Options{}).Running(thread)
	if err != nil || c.PID != uint32(os.Getpid()) {
		t.Errorf("thread %d is of %+v, %v", thread, c, err)
	}
}

func TestRunningNobody(t *testing.T) {
	t.Parallel()
	r := newReader(t, Options{})
	for _, pid := range []int{0, -1, 1 << 30} {
		if _, err := r.Running(pid); !errors.Is(err, ErrNoProcess) {
			t.Errorf("process %d: %v", pid, err)
		}
	}
	dead := exec.Command("true")
	if err := dead.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dead.Wait() }()
	var err error
	for end := time.Now().Add(5 * time.Second); err == nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
		_, err = r.Running(dead.Process.Pid)
	}
	if !errors.Is(err, ErrNoProcess) || !strings.Contains(err.Error(), "ended") {
		t.Errorf("one that has ended: %v", err)
	}
}

func TestRunningInFakeProc(t *testing.T) {
	t.Parallel()
	proc := fakeProc(t.TempDir())
	proc.put(t, fakeProcess{pid: 7, ppid: 1, ticks: 500, comm: "x\n\x1b[2J", args: []string{"x"}, cgroup: "0::/a\n"})
	proc.write(t, 7, "status", "Name:\tx\nTgid:\t7\nPid:\t7\nUid:\t1001\t1002\t1003\t1004\nGid:\t2001\t0\t0\t0\n")
	proc.link(t, 7, "ns", t.TempDir())
	if err := os.MkdirAll(filepath.Dir(proc.path(8, "x")), 0o755); err != nil {
		t.Fatal(err)
	}
	proc.write(t, 8, "status", "no such fields\n")
	r := newReader(t, Options{Proc: string(proc)})
	c, err := r.Running(7)
	if err != nil || c.UID != 1001 || c.GID != 2001 || c.PPID != 1 || c.Origin.Started != 5*time.Second || c.NetNS != 0 || strings.Contains(c.Comm, "\x1b") {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := r.Running(8); err == nil || errors.Is(err, ErrNoProcess) {
		t.Errorf("a status without fields: %v", err)
	}
	if err := r.whyNot(7, fs.ErrPermission); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "hidepid") {
		t.Errorf("%v", err)
	}
}

// What a clock makes of ticks it recognises again.
func TestClockThereAndBack(t *testing.T) {
	t.Parallel()
	for _, c := range []clock{{}, {86400*time.Second + 7}, {-time.Hour - 999999999}} {
		for _, ticks := range []uint64{0, 1, 123456789} {
			if again := c.ticks(c.sinceBoot(ticks)); again != ticks {
				t.Errorf("%+v: %d ticks become %d", c, ticks, again)
			}
		}
	}
}
