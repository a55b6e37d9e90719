package e2e

import (
	"math/rand/v2"
	"testing"
	"time"
)

// Detach, drain, exit: no call is lost on the way.
func TestNeverInTheWayWhenTerminated(t *testing.T) {
	t.Parallel()
	withEach(t, false, func(t *testing.T, s setting) {
		t.Parallel()
		i := newFaultyInstance(t)
		callers := i.startStream(t, 4)
		var served []period
		for range s.times(s.stops) {
			b := i.launchBridge(t, s.options())
			await(t, "the bridge is ready", 10*time.Second, func() bool { return b.said(t, "ready") })
			ready := time.Now()
			time.Sleep(rand.N(200 * time.Millisecond))
			served = append(served, period{ready, time.Now()})
			b.stop(t)
		}
		made := callers.stop(t)

		o := s.outcome("SIGTERM", len(served))
		o.count(made)
		o.tell(t)
		s.checkLost(t, made, nil)
		var ready calls
		for _, p := range served {
			ready = append(ready, made.kind("v1").within(p).that(func(c call) bool { return c.ended().Before(p.to) })...)
		}
		// A machine that has no time for the bridge lets some go straight.
		if past := ready.that(call.straight); len(past) > len(ready)/2 {
			t.Errorf("of %d calls while the bridge was ready not upgraded: %s", len(ready), past)
		}
		if len(made.that(call.bridged)) == 0 {
			t.Error("no call by IMDSv1 was upgraded: this test saw nothing")
		}
		i.checkNothingStays(t)
		i.checkAddresses(t, false)
	})
}

// said tells whether the log has such a line.
func (b *bridge) said(t *testing.T, message string) bool {
	t.Helper()
	_, ok := b.word(t, message)
	return ok
}

func (b *bridge) word(t *testing.T, message string) (record, bool) {
	t.Helper()
	for _, r := range b.records(t) {
		if r.Msg == message {
			return r, true
		}
	}
	return record{}, false
}
