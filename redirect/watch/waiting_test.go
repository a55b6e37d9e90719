package watch

import (
	"testing"
	"time"
)

// TestRequestsThatNobodyAnswersAreNotKept: whoever pipelines them must not fill the bridge's memory.
func TestRequestsThatNobodyAnswersAreNotKept(t *testing.T) {
	t.Parallel()
	told := 0
	streams := newStreams(0)
	streams.counts = &counts{}
	streams.tell = func(*Exchange, *identity) { told++ }
	s := &stream{who: &identity{}}
	for n := range 10 * maxWaiting {
		streams.ask(s, time.Duration(n), time.Duration(n), head{method: "GET", target: "/"})
		if len(s.waiting) > maxWaiting {
			t.Fatalf("%d requests wait", len(s.waiting))
		}
	}
	if want := 10*maxWaiting - len(s.waiting); told != want {
		t.Errorf("%d requests are told, want %d", told, want)
	}
}
