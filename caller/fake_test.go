package caller

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// fakeProc is a directory in the form of procfs.
type fakeProc string

type fakeProcess struct {
	pid, ppid int
	ticks     int
	comm      string
	exe       string
	args      []string
	cgroup    string
	state     string
	cwd       string
	inner     int // its number in its own pid namespace
}

// put writes a process, over what had the pid before.
func (f fakeProc) put(t testing.TB, p fakeProcess) {
	t.Helper()
	state := p.state
	if state == "" {
		state = "S"
	}
	stat := fmt.Sprintf("%d (%s) %s %d 1 1 0 -1 4194560 1 1 0 1 0 2 21 10 20 0 1 0 %d 5124096 904 1 1 1 140737445783264 0\n",
		p.pid, p.comm, state, p.ppid, p.ticks)
	f.write(t, p.pid, "stat", stat)
	f.write(t, p.pid, "cmdline", string(commandLine(p.args...)))
	f.write(t, p.pid, "cgroup", p.cgroup)
	status := fmt.Sprintf("Name:\t%s\nNSpid:\t%d", p.comm, p.pid)
	if p.inner != 0 {
		status += fmt.Sprintf("\t%d", p.inner)
	}
	f.write(t, p.pid, "status", status+"\nNSpgid:\t1\n")
	f.link(t, p.pid, "exe", p.exe)
	f.link(t, p.pid, "cwd", p.cwd)
}

// link makes a link to where, none if that is "".
func (f fakeProc) link(t testing.TB, pid int, name, where string) {
	t.Helper()
	link := f.path(pid, name)
	_ = os.Remove(link)
	if where == "" {
		return
	}
	if err := os.Symlink(where, link); err != nil {
		t.Fatal(err)
	}
}

func (f fakeProc) path(pid int, name string) string {
	return filepath.Join(string(f), fmt.Sprint(pid), name)
}

func (f fakeProc) write(t testing.TB, pid int, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(f.path(pid, name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path(pid, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// overwrite writes over the beginning of a file.
func (f fakeProc) overwrite(t testing.TB, pid int, name, text string) {
	t.Helper()
	file, err := os.OpenFile(f.path(pid, name), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func (p fakeProcess) origin() Origin {
	return Origin{
		PID: uint32(p.pid), TID: uint32(p.pid), PPID: uint32(p.ppid),
		UID: 1000, GID: 1000, Comm: p.comm,
		Started: time.Duration(p.ticks) * userTick, ExecID: 1, CgroupID: 1,
	}
}
