package e2e

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Each new version takes the place of the one before.
func TestNeverInTheWayWhenTakenOver(t *testing.T) {
	t.Parallel()
	i := newFaultyInstance(t)
	s := i.startStream(t, 4)
	b := i.startBridge(t, quietly)
	s.awaitBridged(t, 5*time.Second)
	served := period{from: time.Now()}
	times := 10 * *rounds
	for range times {
		next := i.launchSuccessor(t, b)
		await(t, "the new version is ready", 10*time.Second, func() bool { return next.said(t, "ready") })
		b.checkRetired(t)
		b = next
		time.Sleep(rand.N(200 * time.Millisecond))
	}
	served.to = time.Now()
	checkServed(t, outcome{Fault: "takeover", Times: times}, s.stop(t), served)
}

// The new version dies, hangs, or cannot prove that it works: the old one stays.
func TestNeverInTheWayWhenANewVersionFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		times int // in CI
		fail  func(t *testing.T, i *instance, next *bridge)
	}{
		{"killed", 10, func(t *testing.T, _ *instance, next *bridge) {
			time.Sleep(rand.N(50 * time.Millisecond)) // sooner than it is ready
			next.kill(t)
		}},
		{"stopped", 2, func(t *testing.T, _ *instance, next *bridge) {
			time.Sleep(rand.N(50 * time.Millisecond))
			next.signal(t, syscall.SIGSTOP)
			time.Sleep(2 * untilStraight)
			next.kill(t)
		}},
		{"self-check fails", 1, func(t *testing.T, i *instance, next *bridge) {
			await(t, "the new version gives up", 15*time.Second, func() bool { return isClosed(next.exited) })
			if code := next.cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("the new version ended with %s, want exit code 1", next.cmd.ProcessState)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			i := newFaultyInstance(t)
			s := i.startStream(t, 4)
			b := i.startBridge(t, quietly)
			s.awaitBridged(t, 5*time.Second)
			if c.name == "self-check fails" {
				i.dropSelfChecks(t)
			}
			served := period{from: time.Now()}
			times := c.times * *rounds
			for range times {
				c.fail(t, i, i.launchSuccessor(t, b))
				if isClosed(b.exited) {
					t.Fatalf("the old bridge went: %s", b.cmd.ProcessState)
				}
				time.Sleep(rand.N(200 * time.Millisecond))
			}
			served.to = time.Now()
			checkServed(t, outcome{Fault: "takeover, new version " + c.name, Times: times}, s.stop(t), served)
		})
	}
}

// launchSuccessor starts a bridge with the settings of another one, to take its place.
func (i *instance) launchSuccessor(t *testing.T, b *bridge) *bridge {
	t.Helper()
	next := i.launchBridge(t, bridgeOptions{flags: append([]string{"--takeover", "--admin.listen=unix:" + b.admin}, quietly.flags...)})
	next.admin = b.admin
	t.Cleanup(func() {
		if !isClosed(next.exited) {
			next.stop(t)
		}
	})
	return next
}

func (b *bridge) checkRetired(t *testing.T) {
	t.Helper()
	await(t, "the old bridge ends", 10*time.Second, func() bool { return isClosed(b.exited) })
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the old bridge ended with %s", b.cmd.ProcessState)
	}
}

// dropSelfChecks takes away what a bridge sends to prove itself, and nothing else: the mark is on it.
func (i *instance) dropSelfChecks(t *testing.T) {
	t.Helper()
	for n, program := range []string{"iptables", "ip6tables"} {
		rule := exec.Command(program, "-A", "OUTPUT", "-d", listenAddresses[n], "-m", "mark", "--mark", fmt.Sprintf("%#x/0xffff", 0x2069), "-j", "DROP")
		if got := finish(t, i.Host().StartOutside, rule); got.err != nil {
			t.Fatalf("%s: %v, %s", program, got.err, got.stderr)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// checkServed wants no call to have failed, and each within a period to have been upgraded.
func checkServed(t *testing.T, o outcome, made calls, served period) {
	t.Helper()
	o.Straight, o.Back = unknown, unknown
	o.count(made)
	o.tell(t)
	checkLost(t, made, nil)
	if lost := made.within(served).that(call.straight); len(lost) > 0 {
		t.Errorf("not upgraded: %s", lost)
	}
}
