//go:build root

package iptables

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hangLimit is how long calls may fail from the moment in which the bridge hangs.
const hangLimit = time.Second

// deathLimit is how long calls may fail after the bridge's death. 2 s are promised, and are what it may
// take a virtual machine of make test-kernels, whose processor is a program.
var deathLimit = func() time.Duration {
	if line, _ := os.ReadFile("/proc/cmdline"); strings.Contains(string(line), "imds-bridge-vm") {
		return 2 * time.Second
	}
	return 300 * time.Millisecond
}()

const (
	answerIMDS   = "imds 169.254.169.254:80"
	answerBridge = "bridge"
	errorRefused = "connection refused"
)

func TestKilledBridgeLeavesIMDSReachableAndNothingBehind(t *testing.T) {
	t.Parallel()
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			container := addContainer(t, l, "one")
			b := startBridge(t, l, bridgeTask{Backend: backend})
			if b.Error != "" {
				t.Fatal(b.Error)
			}
			answers(t, l.Host(), imds4, answerBridge)
			answers(t, container, imds6, answerBridge)
			var killed time.Time
			seen := watch(t, l.Host(), imds4, func() {
				time.Sleep(50 * time.Millisecond)
				killed = time.Now()
				b.kill(t, unix.SIGKILL)
				time.Sleep(deathLimit)
			})
			failed := 0
			for _, s := range seen {
				switch {
				case s.Error != "":
					failed++
					if s.Began.Sub(killed) > deathLimit {
						t.Errorf("a call %s after the kill: %s", s.Began.Sub(killed), s.Error)
					}
				case s.Began.Before(killed) != (s.Answer == answerBridge) && s.Began.Sub(killed) > deathLimit:
					t.Errorf("a call %s after the kill is answered by %q", s.Began.Sub(killed), s.Answer)
				}
			}
			t.Logf("%d of %d calls failed", failed, len(seen))
			expectIMDS(t, container, call{To: imds6})
			gone(t, b.Guard)
			expectNoRules(t, l.Host())
			expectNoSets(t, l.Host())
		})
	}
}

func TestHangingBridgeIsPassedBy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := startBridge(t, l, bridgeTask{Backend: NFT})
	answers(t, l.Host(), imds4, answerBridge)
	for range 3 {
		b.kill(t, unix.SIGSTOP)
		stopped := time.Now()
		time.Sleep(hangLimit)
		if s := callFrom(t, l.Host(), call{To: imds4}); s.Answer != answerIMDS {
			t.Errorf("%s after the stop: %q, %s", s.Began.Sub(stopped), s.Answer, s.Error)
		}
		b.kill(t, unix.SIGCONT)
		t.Logf("back after %s", answers(t, l.Host(), imds4, answerBridge))
	}
}

// As by a frozen cgroup: nobody is left who could do anything.
func TestHangingBridgeAndGuardArePassedBy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := startBridge(t, l, bridgeTask{Backend: NFT})
	answers(t, l.Host(), imds4, answerBridge)
	if err := unix.Kill(b.Guard, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.kill(t, unix.SIGSTOP)
	time.Sleep(hangLimit + 50*time.Millisecond)
	expectIMDS(t, l.Host(), call{To: imds4})
	if err := unix.Kill(b.Guard, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	b.kill(t, unix.SIGCONT)
	answers(t, l.Host(), imds4, answerBridge)
}

// As by the end of a container: rules are left that match nothing, for the next start to sweep.
func TestKilledBridgeAndGuardLeaveIMDSReachable(t *testing.T) {
	t.Parallel()
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			container := addContainer(t, l, "one")
			b := startBridge(t, l, bridgeTask{Backend: backend})
			answers(t, l.Host(), imds4, answerBridge)
			killed := time.Now()
			if err := unix.Kill(b.Guard, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			b.kill(t, unix.SIGKILL)
			answers(t, l.Host(), imds4, answerIMDS)
			if took := time.Since(killed); took > 2*time.Second {
				t.Errorf("calls failed for %s", took)
			}
			expectIMDS(t, container, call{To: imds6})
			if len(tables(t, l.Host())) == 0 {
				t.Error("there is nothing to sweep")
			}
			next := startBridge(t, l, bridgeTask{Backend: backend})
			answers(t, l.Host(), imds4, answerBridge)
			if a := next.do(t, "settle"); a.Error != "" || len(a.Leftovers.Removed) != 2 || len(a.Leftovers.Kept) != 0 {
				t.Errorf("swept %+v", a)
			}
			if a := next.do(t, "close"); a.Error != "" {
				t.Error(a.Error)
			}
			expectNoRules(t, l.Host())
			expectNoSets(t, l.Host())
		})
	}
}

func TestKilledGuardIsNoticed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := startBridge(t, l, bridgeTask{Backend: NFT})
	answers(t, l.Host(), imds4, answerBridge)
	if err := unix.Kill(b.Guard, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, b.Guard)
	if a := b.do(t, "beat"); a.Error == "" {
		t.Error("the bridge beats as if it had a guard")
	}
	answers(t, l.Host(), imds4, answerIMDS)
	// Its bridge cleans up in its stead.
	if a := b.do(t, "close"); a.Error == "" {
		t.Error("the bridge ends as if it had a guard")
	}
	expectNoRules(t, l.Host())
	expectNoSets(t, l.Host())
}

func TestGuardOutlivesWhatEndsTheBridgesGroup(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := startBridge(t, l, bridgeTask{Backend: NFT})
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT} {
		if err := unix.Kill(b.Guard, signal); err != nil {
			t.Fatal(err)
		}
	}
	if sid, err := unix.Getsid(b.Guard); err != nil || sid != b.Guard {
		t.Errorf("the guard is of session %d, %v", sid, err)
	}
	time.Sleep(100 * time.Millisecond)
	answers(t, l.Host(), imds4, answerBridge)
	if a := b.do(t, "close"); a.Error != "" {
		t.Error(a.Error)
	}
	gone(t, b.Guard)
	expectNoRules(t, l.Host())
}

func TestGuardEndsWithABridgeThatAskedForNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := startBridge(t, l, bridgeTask{Dumb: true})
	b.kill(t, unix.SIGKILL)
	gone(t, b.Guard)
	expectNoRules(t, l.Host())
}

// A bridge that dies at any moment of its start leaves no call without an answer, and nothing behind.
func TestBridgeKilledWhileItStartsLeavesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, after := range []time.Duration{20, 60, 100, 140, 200} {
		p := startRole(t, l.Host().Start, "bridge", bridgeTask{Backend: NFT, Heartbeat: time.Second})
		time.Sleep(after * time.Millisecond)
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		answers(t, l.Host(), imds4, answerIMDS)
		eventually(t, func() error {
			if lines := tables(t, l.Host()); len(lines) > 0 {
				return fmt.Errorf("rules are left: %v", lines)
			}
			return nil
		})
	}
}

func TestFailClosedRefuses(t *testing.T) {
	t.Parallel()
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			container := addContainer(t, l, "one")
			b := startBridge(t, l, bridgeTask{Backend: backend, Closed: true})
			if a := b.do(t, "settle"); a.Error != "" {
				t.Fatal(a.Error)
			}
			answers(t, l.Host(), imds4, answerBridge)

			b.kill(t, unix.SIGSTOP)
			time.Sleep(hangLimit)
			refused := func(state string) {
				t.Helper()
				for _, in := range []struct {
					name string
					call func(call) sighting
				}{
					{"host", func(c call) sighting { return callFrom(t, l.Host(), c) }},
					{"container", func(c call) sighting { return callFrom(t, container, c) }},
				} {
					for _, c := range []call{{To: imds4}, {To: imds6}} {
						if s := in.call(c); s.Error != errorRefused {
							t.Errorf("%s, %s to %s: answer %q, error %q", state, in.name, c.To, s.Answer, s.Error)
						}
					}
				}
			}
			refused("hung")
			expectIMDS(t, l.Host(), call{To: imds4, Mark: mark}) // the bridge itself
			b.kill(t, unix.SIGCONT)
			answers(t, l.Host(), imds4, answerBridge)

			var killed time.Time
			seen := watch(t, l.Host(), imds4, func() {
				killed = time.Now()
				b.kill(t, unix.SIGKILL)
				time.Sleep(deathLimit)
			})
			for _, s := range seen {
				if s.Answer == answerIMDS {
					t.Errorf("a call %s after the kill went to IMDS", s.Began.Sub(killed))
				}
			}
			gone(t, b.Guard)
			refused("dead")

			// Its successor, which lets calls pass when it is not there, takes over and cleans up.
			next := startBridge(t, l, bridgeTask{Backend: backend})
			answers(t, container, imds4, answerBridge)
			if a := next.do(t, "settle"); a.Error != "" {
				t.Error(a.Error)
			}
			if a := next.do(t, "close"); a.Error != "" {
				t.Error(a.Error)
			}
			expectNoRules(t, l.Host())
			expectIMDS(t, container, call{To: imds4})
		})
	}
}

func TestFailClosedRefusesAfterAnOrderlyStopUntilSwept(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := startBridge(t, l, bridgeTask{Backend: NFT, Closed: true})
	if a := b.do(t, "settle"); a.Error != "" {
		t.Fatal(a.Error)
	}
	if a := b.do(t, "close"); a.Error != "" {
		t.Fatal(a.Error)
	}
	if s := callFrom(t, l.Host(), call{To: imds4}); s.Error != errorRefused {
		t.Errorf("answer %q, error %q", s.Answer, s.Error)
	}
	if err := l.Host().Do(func() error {
		left, err := Sweep(Tools{})
		if len(left.Removed) != 2 || len(left.Kept) != 0 {
			t.Errorf("swept %+v", left)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	expectIMDS(t, l.Host(), call{To: imds4})
	expectNoRules(t, l.Host())
}

// One that has not proven itself refuses nothing.
func TestFailClosedWithoutSettleRefusesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := startBridge(t, l, bridgeTask{Backend: NFT, Closed: true})
	b.kill(t, unix.SIGKILL)
	gone(t, b.Guard)
	expectIMDS(t, l.Host(), call{To: imds4})
}
