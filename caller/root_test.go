//go:build root

package caller

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A process in a pid namespace of its own is named by the pid that the initial namespace gives it.
func TestPidNamespace(t *testing.T) {
	t.Parallel()
	p := start(t, "chain:1", func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	})
	if p.pid == p.first.Process.Pid || p.pid > 100 {
		t.Fatalf("pid %d is not one of a new namespace", p.pid)
	}
	r := newReader(t, Options{})
	c := r.Caller(origin(t, p.first.Process.Pid))
	if !c.Complete || c.Executable == "" || c.Ancestors[0].PID != os.Getpid() {
		t.Errorf("the namespace's first process: %+v", c)
	}
	c = r.Caller(origin(t, onlyChild(t, p.first.Process.Pid)))
	if !c.Complete || len(c.Ancestors) < 2 || c.Ancestors[1].PID != os.Getpid() {
		t.Errorf("its child: %+v", c)
	}
}

func onlyChild(t *testing.T, pid int) int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var child int
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			_, _ = fmt.Sscan(string(text), &child)
		}
	}
	if child == 0 {
		t.Fatalf("process %d has no child", pid)
	}
	return child
}

// A bridge in a time namespace sees other times in /proc than the kernel's record has.
func TestBridgeInTimeNamespace(t *testing.T) {
	t.Parallel()
	p := start(t, "stay", nil)
	o := origin(t, p.pid)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bridge := exec.Command("unshare", "--time", "--boottime", "86400", "--fork", self)
	bridge.Env = []string{fmt.Sprintf("%s=read:%d %d", roleVariable, o.PID, o.Started), raceExit}
	out, err := bridge.CombinedOutput()
	if want := fmt.Sprintf("true %s true", self); err != nil || strings.TrimSpace(string(out)) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
}

// Other users' processes can be read with CAP_SYS_PTRACE and no other capability.
func TestCapability(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "stay", func(cmd *exec.Cmd) {
		cmd.Path = "/proc/self/exe" // the build's directory is not theirs to enter
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
	})
	o := origin(t, p.pid)
	for _, test := range []struct {
		ambient []uintptr
		want    string
	}{
		{[]uintptr{19}, "true " + self + " true"}, // CAP_SYS_PTRACE
		{nil, "true  true"},
	} {
		bridge := exec.Command("/proc/self/exe")
		bridge.Env = []string{fmt.Sprintf("%s=read:%d %d", roleVariable, o.PID, o.Started), raceExit}
		bridge.SysProcAttr = &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: 4321, Gid: 4321},
			AmbientCaps: test.ambient,
		}
		out, err := bridge.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != test.want {
			t.Errorf("with %v: got %q, %v, want %q", test.ambient, out, err, test.want)
		}
	}
}
