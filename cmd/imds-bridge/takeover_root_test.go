//go:build root

package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/imds-bridge/imds-bridge/handover"
	"github.com/imds-bridge/imds-bridge/redirect"
)

func TestTakeoverLosesNothing(t *testing.T) {
	h := newHost(t)
	running := h.start(t)
	running.isReady(t)
	stop := h.calls(t)
	for range 3 {
		next := h.start(t, "--takeover")
		next.isReady(t)
		running.ends(t, exitOK)
		if got := h.readiness(); got != http.StatusOK {
			t.Errorf("readiness after a takeover: %d", got)
		}
		if got := h.leftover(t); got != redirect.LeftoverInUse {
			t.Errorf("the listener's address: %s", got)
		}
		running = next
	}
	expectAll(t, stop())

	_ = running.Process.Signal(syscall.SIGTERM)
	running.ends(t, exitOK)
	if got := h.leftover(t); got != redirect.LeftoverNone {
		t.Errorf("the listener's address after the last bridge: %s", got)
	}
	if left, _ := os.ReadDir(h.dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestTakeoverFromNobodyIsAStart(t *testing.T) {
	h := newHost(t)
	b := h.start(t, "--takeover")
	b.isReady(t)
	b.says(t, "there is no bridge to take over from")
	h.expectServing(t)
}

func TestTakeoverFromABridgeThatWasKilledIsAStart(t *testing.T) {
	h := newHost(t)
	b := h.start(t)
	b.isReady(t)
	_ = b.Process.Kill()
	<-b.ended
	next := h.start(t, "--takeover")
	next.isReady(t)
	h.expectServing(t)
}

func TestTakeoverUnderOtherTermsIsRefused(t *testing.T) {
	h := newHost(t)
	running := h.start(t)
	running.isReady(t)
	stop := h.calls(t)
	for flag, want := range map[string]string{
		"--redirect.mark=0x77":              "redirect.mark is 0x77 here and 0x2069 there",
		"--redirect.listen=127.0.0.1:8254":  "redirect.listen is 127.0.0.1:8254 here and 169.254.20.254:8254 there",
		"--redirector=iptables":             "redirector is iptables here and ebpf there",
		"--redirect.listen6=":               "redirect.listen6 is none here",
		"--redirect.heartbeat=not-a-number": "redirect.heartbeat",
	} {
		next := h.start(t, "--takeover", flag)
		<-next.ended
		if code := next.ProcessState.ExitCode(); code == exitOK || !strings.Contains(next.logged(), want) {
			t.Errorf("%s: exit code %d, %s", flag, code, next.logged())
		}
	}
	expectAll(t, stop())
	if got := h.leftover(t); got != redirect.LeftoverInUse {
		t.Errorf("the listener's address: %s", got)
	}
}

// A successor whose redirection does not work leaves the running bridge in place. The one of this test
// is to redirect a cgroup in which another program refuses every connect().
func TestTakeoverThatFailsItsSelfCheckLeavesTheRunningBridge(t *testing.T) {
	h := newHost(t)
	running := h.start(t)
	running.isReady(t)
	elsewhere := filepath.Join(h.Cgroup(), "elsewhere")
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	refuseConnects(t, elsewhere)
	stop := h.calls(t)
	next := h.start(t, "--takeover", "--redirect.cgroup="+elsewhere)
	next.ends(t, exitFailed)
	if !strings.Contains(next.logged(), "self-check") {
		t.Errorf("the successor says %s", next.logged())
	}
	time.Sleep(100 * time.Millisecond)
	expectAll(t, stop())
	running.says(t, "this bridge goes on")
	if got := h.leftover(t); got != redirect.LeftoverInUse || h.readiness() != http.StatusOK {
		t.Errorf("the listener's address: %s, readiness %d", got, h.readiness())
	}
	last := h.start(t, "--takeover")
	last.isReady(t)
	running.ends(t, exitOK)
}

func refuseConnects(t *testing.T, cgroup string) {
	t.Helper()
	refuse, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer refuse.Close()
	attached, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: refuse})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { attached.Close() })
}

// A successor that is killed, or stopped for good, leaves the running bridge serving: this test is one,
// at each step.
func TestSuccessorThatDiesOrHangsLeavesTheRunningBridge(t *testing.T) {
	h := newHost(t)
	running := h.start(t)
	running.isReady(t)
	stop := h.calls(t)
	begin := func() *handover.Takeover {
		t.Helper()
		var takeover *handover.Takeover
		eventually(t, "begin a takeover", func() (ok bool) {
			var err error
			takeover, err = h.begin()
			return err == nil
		})
		return takeover
	}
	for range 3 {
		takeover := begin()
		time.Sleep(50 * time.Millisecond)
		if err := errors.Join(takeover.Close(), takeover.State.Close()); err != nil {
			t.Error(err)
		}
		takeover = begin()
		if err := takeover.Pause(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		if err := errors.Join(takeover.Close(), takeover.State.Close()); err != nil {
			t.Error(err)
		}
	}
	hanging := begin()
	if err := hanging.Pause(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(700 * time.Millisecond)
	c := stop()
	expectAll(t, c)
	if c.Slowest > 800*time.Millisecond {
		t.Errorf("a call waited %s", c.Slowest)
	}
	if err := hanging.Retire(); err == nil {
		t.Error("the running bridge retires, which has gone on")
	}
	if err := errors.Join(hanging.Close(), hanging.State.Close()); err != nil {
		t.Error(err)
	}
	h.expectServing(t)
	running.says(t, "this bridge goes on")
}

// The real thing, killed after any time: whoever is left serves, and nothing is left behind.
func TestSuccessorThatIsKilledAtAnyTime(t *testing.T) {
	h := newHost(t)
	running := h.start(t)
	running.isReady(t)
	took := func() time.Duration {
		began := time.Now()
		next := h.start(t, "--takeover")
		next.isReady(t)
		running.ends(t, exitOK)
		running = next
		return time.Since(began)
	}()
	for share := range 6 {
		next := h.start(t, "--takeover")
		time.Sleep(took * time.Duration(share) / 5)
		_ = next.Process.Signal(syscall.SIGSTOP)
		time.Sleep(50 * time.Millisecond)
		_ = next.Process.Kill()
		<-next.ended
		if h.hasRetired(t) {
			running.ends(t, exitOK)
			running = h.start(t)
			running.isReady(t)
		}
		h.expectServing(t)
	}
}

// hasRetired tells whether the bridge that ran has gone, once it knows itself.
func (h *host) hasRetired(t *testing.T) (retired bool) {
	t.Helper()
	eventually(t, "the running bridge makes up its mind", func() bool {
		takeover, err := h.begin()
		if err == nil {
			err = errors.Join(takeover.Close(), takeover.State.Close())
		} else if retired = errors.Is(err, handover.ErrNobody); retired {
			err = nil
		}
		return err == nil
	})
	return retired
}

func TestOneOfTwoSuccessorsTakesOver(t *testing.T) {
	h := newHost(t)
	running := h.start(t)
	running.isReady(t)
	stop := h.calls(t)
	both := []*bridgeProcess{h.start(t, "--takeover"), h.start(t, "--takeover")}
	running.ends(t, exitOK)
	time.Sleep(500 * time.Millisecond)
	expectAll(t, stop())
	ready := 0
	for _, b := range both {
		select {
		case <-b.ended: // refused, or already succeeded by the other
		default:
			b.isReady(t)
			ready++
		}
	}
	if ready != 1 {
		t.Errorf("%d bridges run", ready)
	}
}

// Under fail: closed the hook is pinned, and goes from bridge to bridge by a change of its program.
func TestTakeoverUnderFailClosed(t *testing.T) {
	h := newHost(t)
	h.mountBPF(t)
	running := h.start(t, "--fail=closed")
	running.isReady(t)
	stop := h.calls(t)
	for range 3 {
		next := h.start(t, "--fail=closed", "--takeover")
		next.isReady(t)
		running.ends(t, exitOK)
		running = next
	}
	// One that dies when it has paused the running bridge changes nothing.
	takeover, err := h.begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(takeover.Pause(), takeover.Close(), takeover.State.Close()); err != nil {
		t.Fatal(err)
	}
	running.says(t, "this bridge goes on")
	h.expectServing(t)
	expectAll(t, stop())

	_ = running.Process.Kill()
	<-running.ended
	time.Sleep(time.Second)
	if c := h.calls(t)(); c.Failed != c.Calls {
		t.Errorf("without a bridge %d of %d calls succeed", c.Calls-c.Failed, c.Calls)
	}
	running = h.start(t, "--fail=closed", "--takeover")
	running.isReady(t)
	h.expectServing(t)
}

// mountBPF gives bridges a file system for pins that is gone with the test.
func (h *host) mountBPF(t *testing.T) {
	t.Helper()
	holder := exec.Command("sh", "-c", "mount -t bpf bpf /sys/fs/bpf && echo && exec cat")
	holder.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = holder.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatalf("mount a bpf file system: %v", err)
	}
	h.enter = []string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", holder.Process.Pid), "--"}
}
