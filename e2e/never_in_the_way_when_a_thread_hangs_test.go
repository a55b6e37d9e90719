package e2e

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Every thread is held up in turn, wherever it is at that moment. What the others still do must not be
// taken for a bridge that serves.
func TestNeverInTheWayWhenAThreadHangs(t *testing.T) {
	t.Parallel()
	i := newFaultyInstance(t)
	s := i.startStream(t, 4)
	b := i.startBridge(t, quietly)
	var hangs []period
	for range *rounds {
		for _, thread := range b.threads(t) {
			s.awaitBridged(t, 5*time.Second)
			hangs = append(hangs, hang(func() (resume func()) {
				return trace(t, func(tr *tracer) error { return tr.hold(thread) }).end
			}))
		}
	}
	s.awaitBridged(t, 5*time.Second)
	made := s.stop(t)
	for n, h := range hangs {
		// A thread that idles when it is held takes the others with it only once it is given work.
		if stuck := made.within(h).that(call.stuck); len(stuck) > 0 {
			hangs[n].from = stuck[0].began()
		}
	}
	checkHangs(t, outcome{Fault: "one thread hangs"}, made, hangs)
}

// One that accepts hangs, and all else goes on: what only looks at a clock takes this for a bridge in
// good health.
func TestNeverInTheWayWhenAcceptingHangs(t *testing.T) {
	t.Parallel()
	i := newFaultyInstance(t)
	s := i.startStream(t, 4)
	b := i.startBridge(t, quietly)
	var hangs []period
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for range *rounds {
			s.awaitBridged(t, 5*time.Second)
			hangs = append(hangs, hang(func() (resume func()) {
				threads := b.threads(t)
				return trace(t, func(tr *tracer) error { return tr.holdAccept(b, threads, family) }).end
			}))
		}
	}
	s.awaitBridged(t, 5*time.Second)
	made := s.stop(t)
	checkHangs(t, outcome{Fault: "accept hangs"}, made, hangs)
	checkStraight(t, made, hangs)
}

func (b *bridge) threads(t *testing.T) (threads []int) {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", b.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		thread, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		threads = append(threads, thread)
	}
	return threads
}
