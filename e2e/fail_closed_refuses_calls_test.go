package e2e

import (
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// With fail: closed no call goes straight while the bridge is dead, hung or stopped. Each is refused at
// connect(), and none waits.
func TestFailClosedRefusesCalls(t *testing.T) {
	mountBPF(t)
	for _, r := range redirectors {
		t.Run(r.name, func(t *testing.T) { checkFailsClosed(t, r) })
	}
}

func checkFailsClosed(t *testing.T, r redirector) {
	closed := r.options()
	closed.flags = append(closed.flags, "--fail=closed")
	for _, c := range []struct {
		name     string
		patience time.Duration // until calls are refused
		fail     func(t *testing.T, b *bridge) (back func())
	}{
		{"SIGKILL", 0, func(t *testing.T, b *bridge) func() {
			b.kill(t)
			return nil
		}},
		{"SIGTERM", 0, func(t *testing.T, b *bridge) func() {
			b.stop(t)
			return nil
		}},
		{"SIGSTOP", untilStraight, func(t *testing.T, b *bridge) func() {
			b.signal(t, syscall.SIGSTOP)
			return func() { b.signal(t, syscall.SIGCONT) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := newFaultyInstance(t)
			b := i.startBridge(t, closed)
			s := i.startStream(t, 4)
			s.awaitBridged(t, 5*time.Second)
			failed := time.Now()
			back := c.fail(t, b)
			without := period{from: time.Now().Add(c.patience)}
			time.Sleep(c.patience + untilStraight)
			without.to = time.Now()
			if back == nil {
				i.startBridge(t, closed)
			} else {
				back()
			}
			s.awaitBridged(t, 5*time.Second)
			made := s.stop(t)

			o := outcome{Fault: c.name + ", " + r.name + ", fail: closed", Times: 1, Straight: unknown}
			o.count(made)
			o.Back = made.that(func(c call) bool { return c.Refused }).until(without.to)
			o.tell(t)
			if past := made.that(call.straight); len(past) > 0 {
				t.Errorf("went straight: %s", past)
			}
			refused := made.within(without)
			if other := refused.that(func(c call) bool { return !c.Refused || c.stuckFor(untilStraight/2) }); len(other) > 0 || len(refused) == 0 {
				t.Errorf("of %d calls not refused at once: %s", len(refused), other)
			}
			checkLost(t, made, []period{{failed, made.that(func(c call) bool { return c.Refused }).last()}})
		})
	}
}

// imds-bridge cleanup ends it: calls go straight again.
func TestCleanupEndsFailClosed(t *testing.T) {
	mountBPF(t)
	i := newFaultyInstance(t)
	b := i.startBridge(t, bridgeOptions{flags: []string{"--fail=closed", "--log.level=info"}})
	b.kill(t)
	s := i.startStream(t, 2)
	await(t, "calls are refused", 5*time.Second, func() bool {
		made := s.sofar()
		return len(made) > 10 && len(made) == len(made.that(func(c call) bool { return c.Refused }))
	})
	if got := finish(t, i.Host().Start, command(t, "cleanup", "--redirect.cgroup="+i.Cgroup())); got.err != nil {
		t.Fatalf("cleanup: %v, %s", got.err, got.stderr)
	}
	cleaned := time.Now()
	time.Sleep(500 * time.Millisecond)
	made := s.stop(t)
	checkLost(t, made.within(period{cleaned, time.Now()}), nil)
	i.checkNothingStays(t)
}

func (c call) stuckFor(d time.Duration) bool { return c.Took > d }

func (cs calls) last() (moment time.Time) {
	for _, c := range cs {
		if c.ended().After(moment) {
			moment = c.ended()
		}
	}
	return moment
}

// mountBPF mounts the file system in which hooks are pinned, where systemd has not. A bridge does not: a
// mount of its own would be gone with it.
func mountBPF(t *testing.T) {
	t.Helper()
	const at = "/sys/fs/bpf"
	var s unix.Statfs_t
	if err := unix.Statfs(at, &s); err != nil || s.Type == unix.BPF_FS_MAGIC {
		return
	}
	if err := unix.Mount("bpf", at, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}
