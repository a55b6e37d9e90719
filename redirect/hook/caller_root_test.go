//go:build root

package hook

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		t.Fatal(err)
	}
	return s.Ino
}

func clock(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}

func as(uid, gid uint32) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	}
}

func TestHostProcessIsRecordedWhole(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	before := clock(t)
	client := start(t, b.Host(), []call{{To: imds4, Comm: "exactly15bytes-and more"}}, as(12345, 23456))
	a := b.next(t)
	if a.err != nil {
		t.Fatal(a.err)
	}
	pid := client.cmd.Process.Pid
	proc, err := procfs.NewProc(pid)
	if err != nil {
		t.Fatal(err)
	}
	stat, err := proc.Stat() // now, for the process lives until it is answered
	if err != nil {
		t.Fatal(err)
	}
	a.answer(t)
	s := client.next(t)

	got := a.record
	if at := got.Connected; at < before || at > clock(t) {
		t.Errorf("connected at %s, called after %s", at, before)
	}
	const tick = time.Second / 100 // of /proc/<pid>/stat
	if off := got.Started - time.Duration(stat.Starttime)*tick; off < 0 || off >= tick {
		t.Errorf("started at %s, according to /proc at tick %d", got.Started, stat.Starttime)
	}
	if got.ExecID == 0 {
		t.Error("no exec id")
	}
	want := redirect.Connection{
		PID: uint32(pid), TID: uint32(s.TID), PPID: uint32(os.Getpid()),
		UID: 12345, GID: 23456,
		Comm:        "exactly15bytes-",
		CgroupID:    inode(t, b.Cgroup()),
		NetNSCookie: cmp.Or(s.NetNSCookie, got.NetNSCookie),
		NetNS:       uint32(inode(t, b.Host().Path())),
		OwnNetNS:    true,
		Socket:      s.Socket,
		Original:    mustAddrPort(imds4),
		Started:     got.Started, ExecID: got.ExecID, Connected: got.Connected,
	}
	if got != want {
		t.Errorf("recorded\n%+v, want\n%+v", got, want)
	}
	if s.Error != "" || s.Answer != "bridge" {
		t.Errorf("answer %q, error %q", s.Answer, s.Error)
	}
	if s.Peer != imds4 {
		t.Errorf("the client's peer is %s", s.Peer)
	}
	if local := a.RemoteAddr().String(); s.Local != local {
		t.Errorf("the client is %s, the bridge's peer %s", s.Local, local)
	}
}

func TestTwoSocketsOfANamespaceHaveOneCookieAndTwoNamespacesTwo(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	container := addContainer(t, b, "one")
	_, first := b.call(t, b.Host(), call{To: imds4})
	_, second := b.call(t, b.Host(), call{To: imds6})
	_, other := b.call(t, container, call{To: imds4})
	if first.NetNSCookie == 0 || first.NetNSCookie != second.NetNSCookie {
		t.Errorf("host's namespace is %d and %d", first.NetNSCookie, second.NetNSCookie)
	}
	if other.NetNSCookie == first.NetNSCookie || other.NetNS == first.NetNS {
		t.Errorf("the container's namespace is the host's: %d, %d", other.NetNSCookie, other.NetNS)
	}
	if first.Socket == second.Socket {
		t.Errorf("two sockets are both %d", first.Socket)
	}
}

func TestExecIsToldByExecIDAlone(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	client := start(t, b.Host(), []call{{To: imds4}, {To: imds4}, {To: imds4, Exec: true}})
	var seen []redirect.Connection
	for range 3 {
		a := b.next(t)
		if a.err != nil {
			t.Fatal(a.err)
		}
		seen = append(seen, a.record)
		a.answer(t)
		client.next(t)
	}
	for _, c := range seen[1:] {
		if c.PID != seen[0].PID || c.Started != seen[0].Started {
			t.Errorf("pid %d, started %s; before %d, %s", c.PID, c.Started, seen[0].PID, seen[0].Started)
		}
	}
	if seen[0].ExecID != seen[1].ExecID {
		t.Errorf("exec id changed from %d to %d without exec", seen[0].ExecID, seen[1].ExecID)
	}
	if seen[1].ExecID == seen[2].ExecID {
		t.Errorf("exec id is %d before and after exec", seen[1].ExecID)
	}
}

func TestThreadIsToldFromItsProcess(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	client := start(t, b.Host(), []call{{To: imds4, Comm: "worker", Thread: true}})
	a := b.next(t)
	if a.err != nil {
		t.Fatal(a.err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", client.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	a.answer(t)
	s, r := client.next(t), a.record
	if r.PID != uint32(s.PID) || r.TID != uint32(s.TID) || r.TID == r.PID {
		t.Errorf("pid %d, tid %d; the client says %d, %d", r.PID, r.TID, s.PID, s.TID)
	}
	if r.Comm != "worker" {
		t.Errorf("comm is %q", r.Comm)
	}
	if r.PPID != uint32(os.Getpid()) {
		t.Errorf("parent is %d, want %d", r.PPID, os.Getpid())
	}
	// The process's start, not the thread's.
	if ticks := fmt.Sprint(int64(r.Started / (time.Second / 100))); !strings.Contains(string(stat), " "+ticks+" ") {
		t.Errorf("started at tick %s; /proc/<pid>/stat is %s", ticks, stat)
	}
}

// The ids are the initial namespaces', whatever the process sees itself as.
func TestProcessInPrivateNamespacesIsRecordedByTheHostsIDs(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	client := start(t, b.Host(), []call{{To: imds4}}, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWPID | unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 54321, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65432, Size: 1}},
			Credential:  &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
		}
	})
	a := b.next(t)
	if a.err != nil {
		t.Fatal(a.err)
	}
	a.answer(t)
	s, r := client.next(t), a.record
	if s.PID != 1 {
		t.Errorf("the client sees itself as %d, and is in no pid namespace", s.PID)
	}
	if r.PID != uint32(client.cmd.Process.Pid) || r.UID != 54321 || r.GID != 65432 {
		t.Errorf("recorded pid %d, uid %d, gid %d; want %d, 54321, 65432", r.PID, r.UID, r.GID, client.cmd.Process.Pid)
	}
	if r.PPID != uint32(os.Getpid()) {
		t.Errorf("parent is %d, want %d", r.PPID, os.Getpid())
	}
	if s.Peer != imds4 || s.Answer != "bridge" {
		t.Errorf("answer %q from %s", s.Answer, s.Peer)
	}
}
