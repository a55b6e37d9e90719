//go:build root

package hook

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

var attachTypes = []ebpf.AttachType{
	ebpf.AttachCGroupSockOps,
	ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
	ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
}

// attached counts the programs on the lab's cgroup, by hook.
func attached(l *lab.Lab) (map[ebpf.AttachType]int, error) {
	dir, err := os.Open(l.Cgroup())
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	n := make(map[ebpf.AttachType]int)
	for _, where := range attachTypes {
		q, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: where})
		if err != nil {
			return nil, err
		}
		n[where] = len(q.Programs)
	}
	return n, nil
}

// expectAttached waits until as many hooks are attached to the lab's cgroup, whole.
func expectAttached(t *testing.T, l *lab.Lab, want int) {
	t.Helper()
	eventually(t, func() error {
		n, err := attached(l)
		if err != nil {
			return err
		}
		for _, where := range attachTypes {
			if n[where] != want {
				return fmt.Errorf("%d programs at each hook, want %d", n, want)
			}
		}
		return nil
	})
}

func TestDetachSendsNewCallsToIMDSAndKeepsOldOnes(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	standIn(t, b.Lab, imds4, imds6)
	old := start(t, b.Host(), []call{{To: imds4, Keep: true}, {To: imds6, Keep: true}})
	var open []*arrival
	for range 2 {
		old.next(t)
		open = append(open, b.next(t))
	}
	for range 2 {
		if err := b.hook.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	b.expectIMDS(t, b.Host(), call{To: imds4}, call{To: imds6})
	for _, a := range open {
		if got, err := b.lookup(a.Conn); err != nil || got != a.record {
			t.Errorf("after Detach the caller is %+v, %v; was %+v", got, err, a.record)
		}
	}
	if err := old.end(); err != nil {
		t.Fatal(err)
	}
	b.expectNoRecords(t)
}

func TestCloseLeavesNothingAttached(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	standIn(t, b.Lab, imds4, imds6)
	expectAttached(t, b.Lab, 1)
	b.call(t, b.Host(), call{To: imds4})
	b.expectCounters(t, map[Outcome]uint64{"redirected": 1, "joined": 1, "closed": 1})
	for range 2 {
		if err := b.hook.Close(); err != nil {
			t.Error(err)
		}
	}
	expectAttached(t, b.Lab, 0)
	b.expectIMDS(t, b.Host(), call{To: imds4}, call{To: imds6})
	if err := b.hook.Beat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Beat after Close: %v", err)
	}
	if err := b.hook.Detach(); err != nil {
		t.Errorf("Detach after Close: %v", err)
	}
	if _, err := b.hook.find(listen4, listen4); err == nil || errors.Is(err, redirect.ErrNoRecord) {
		t.Errorf("Lookup after Close: %v", err)
	}
	b.expectCounters(t, map[Outcome]uint64{"redirected": 1, "joined": 1, "closed": 1}) // as they were
}

// As one has that was forked and did not exec yet.
func TestDetachDoesNotWaitForAProcessThatHoldsACopyOfTheLink(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	standIn(t, b.Lab, imds4, imds6)
	for _, l := range b.hook.links {
		fd, err := unix.Dup(l.link.FD())
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	if err := b.hook.Detach(); err != nil {
		t.Fatal(err)
	}
	b.expectIMDS(t, b.Host(), call{To: imds4}, call{To: imds6})
	if err := b.hook.Close(); err != nil {
		t.Fatal(err)
	}
	expectAttached(t, b.Lab, 0)
}

func TestKilledBridgeLeavesNothingAttached(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	standIn(t, l, imds4, imds6)
	bridge := startRole(t, l.Host().StartOutside, "bridge", bridgeTask{Cgroup: l.Cgroup(), Listen: listen4})
	var s started
	bridge.read(t, &s)
	if s.Listen != "" || s.Attach != "" {
		t.Fatal(s.Listen, s.Attach)
	}
	expectAttached(t, l, 1)
	if err := bridge.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := bridge.end(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("the bridge ended with %v", err)
	}
	expectAttached(t, l, 0)
	expectIMDS(t, l.Host(), call{To: imds4}, call{To: imds6})
}

func TestFailedAttachLeavesNothingAttached(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	dir, err := os.Open(l.Cgroup())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var other hookPrograms
	if err := loadHookObjects(&other, nil); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	// Without a flag that allows others.
	holder := link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: other.Connect6, Attach: ebpf.AttachCGroupInet6Connect}
	if err := link.RawAttachProgram(holder); err != nil {
		t.Fatal(err)
	}
	err = l.Host().Do(func() error {
		_, err := Attach(options(l))
		return err
	})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(fmt.Sprint(err), l.Cgroup()) || !strings.Contains(fmt.Sprint(err), "holds the hook alone") {
		t.Errorf("attaching beside a program that holds the hook alone: %v", err)
	}
	if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: holder.Target, Program: holder.Program, Attach: holder.Attach}); err != nil {
		t.Fatal(err)
	}
	expectAttached(t, l, 0)
}

func TestAttachingIsCalledBeforeAnyCall(t *testing.T) {
	t.Parallel()
	called := false
	b := newBridge(t, func(o *Options) {
		l := o.Cgroup
		o.Attaching = func(h *Hook) {
			called = true
			if _, err := h.find(listen4, listen4); !errors.Is(err, redirect.ErrNoRecord) {
				t.Errorf("lookups do not work yet: %v", err)
			}
			if n := countPrograms(t, l); n != 0 {
				t.Errorf("%d programs are attached", n)
			}
		}
	})
	if !called {
		t.Error("Attaching was not called")
	}
	b.call(t, b.Host(), call{To: imds4})
}

func countPrograms(t *testing.T, cgroup string) (n int) {
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer dir.Close()
	for _, where := range attachTypes {
		q, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: where})
		if err != nil {
			t.Error(err)
			return 0
		}
		n += len(q.Programs)
	}
	return n
}
