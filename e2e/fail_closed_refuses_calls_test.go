package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"
)

// With fail: closed no call goes straight once a bridge was ready, at whatever moments it and those after
// it die, of their start or after it. Without one each is refused at connect().
func TestFailClosedWhenKilled(t *testing.T) {
	t.Parallel()
	withEach(t, true, func(t *testing.T, s setting) {
		s.checkEnds(t, "SIGKILL", min(s.stops, 10), func(b *bridge) []period {
			time.Sleep(s.untilKilled + rand.N(300*time.Millisecond))
			return []period{b.kill(t)}
		})
	})
}

func TestFailClosedWhenTerminated(t *testing.T) {
	t.Parallel()
	withEach(t, true, func(t *testing.T, s setting) {
		s.checkEnds(t, "SIGTERM", min(s.stops, 3), func(b *bridge) []period {
			await(t, "the bridge is ready", 10*time.Second, func() bool { return b.said(t, "ready") })
			b.stop(t)
			return nil
		})
	})
}

// checkEnds ends one bridge after the other. It wants calls to be refused from each end to the next start, no
// call to fail in another way but those under way when end says so, and the last bridge to serve.
func (s setting) checkEnds(t *testing.T, fault string, times int, end func(*bridge) (underWay []period)) {
	t.Helper()
	t.Parallel()
	i := newFaultyInstance(t)
	b, callers := s.begin(t, i)
	var lost, without []period
	for n := range times {
		lost = append(lost, end(b)...)
		from := time.Now()
		time.Sleep(untilStraight / 5)
		without = append(without, period{from, time.Now()})
		if n+1 < times {
			b = i.launchBridge(t, s.options())
		}
	}
	again := time.Now()
	i.startBridge(t, s.options())
	callers.awaitBridged(t, 5*time.Second)
	made := callers.stop(t)

	o := s.outcome(fault, times)
	o.count(made)
	o.Back = made.that(s.away).until(again)
	o.tell(t)
	s.checkLost(t, made, lost)
	s.checkAway(t, made, without)
	for _, p := range without {
		if served := made.within(p).that(func(c call) bool { return !s.away(c) }); len(served) > 0 {
			t.Errorf("not refused without a bridge: %s", served)
		}
	}
}

// imds-bridge cleanup ends it: calls go straight again.
func TestCleanupEndsFailClosed(t *testing.T) {
	i := newFaultyInstance(t)
	i.closes(t)
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

// closes is for a bridge that fails closed: it gives hooks a place to be pinned, and takes away at the
// end of the test what is pinned there.
func (i *instance) closes(t *testing.T) {
	t.Helper()
	if err := mountBPF(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(i.Cgroup())
	if err != nil {
		t.Fatal(err)
	}
	pins := fmt.Sprintf("%s/imds-bridge-%d", bpf, info.Sys().(*syscall.Stat_t).Ino)
	t.Cleanup(func() {
		if err := os.RemoveAll(pins); err != nil {
			t.Error(err)
		}
	})
}
