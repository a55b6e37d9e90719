package e2e

import (
	"encoding/json"
	"testing"
	"time"
)

// From the time on that the bridge states at its start, it upgrades and reports every call.
func TestCoverageBeginsAtAKnownTime(t *testing.T) {
	t.Parallel()
	i := newFaultyInstance(t)
	s := i.startStream(t, 4)
	launched := time.Now()
	b := i.startBridge(t, quietly)
	ready, ok := b.word(t, "ready")
	if !ok {
		t.Fatal("the log has no line that says ready")
	}
	var stated struct {
		From time.Time `json:"coverage_from"`
	}
	if err := json.Unmarshal([]byte(ready.raw), &stated); err != nil {
		t.Fatalf("%v: %s", err, ready.raw)
	}
	if stated.From.Before(launched) || stated.From.After(time.Now()) {
		t.Errorf("coverage from %s, started at %s", stated.From, launched)
	}
	time.Sleep(500 * time.Millisecond)
	made := s.stop(t)

	covered := made.kind("v1").within(period{stated.From, time.Now()})
	if missed := covered.that(func(c call) bool { return !c.bridged() }); len(missed) > 0 || len(covered) == 0 {
		t.Errorf("of %d calls since %s not upgraded: %s", len(covered), stated.From, missed)
	}
	if len(made.that(call.straight)) == 0 {
		t.Error("no call went straight before: this test saw nothing")
	}
	b.calls(t, len(made.that(call.bridged)), func(r record) bool { return r.Version == "v1" })
}
