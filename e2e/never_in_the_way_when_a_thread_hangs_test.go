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
	withFirst(t, false, checkThreadHangs)
}

func TestFailClosedWhenAThreadHangs(t *testing.T) {
	t.Parallel()
	withFirst(t, true, checkThreadHangs)
}

func checkThreadHangs(t *testing.T, s setting) {
	t.Parallel()
	i := newFaultyInstance(t)
	b, callers := s.begin(t, i)
	var hangs []period
	for range s.times(1) {
		for _, thread := range b.threads(t) {
			callers.awaitBridged(t, 5*time.Second)
			hangs = append(hangs, s.hang(func() (resume func()) {
				return trace(t, func(tr *tracer) error { return tr.hold(thread) }).end
			}))
		}
	}
	callers.awaitBridged(t, 5*time.Second)
	made := callers.stop(t)
	s.checkHangs(t, "one thread hangs", made, hangs)
}

// One that accepts hangs, and all else goes on: what only looks at a clock takes this for a bridge in
// good health.
func TestNeverInTheWayWhenAcceptingHangs(t *testing.T) {
	t.Parallel()
	withEach(t, false, checkAcceptingHangs)
}

func TestFailClosedWhenAcceptingHangs(t *testing.T) {
	t.Parallel()
	withEach(t, true, checkAcceptingHangs)
}

func checkAcceptingHangs(t *testing.T, s setting) {
	t.Parallel()
	i := newFaultyInstance(t)
	b, callers := s.begin(t, i)
	var hangs []period
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		for range s.times(1) {
			callers.awaitBridged(t, 5*time.Second)
			hangs = append(hangs, s.hang(func() (resume func()) {
				return trace(t, func(tr *tracer) error { return tr.holdAccept(b, family) }).end
			}))
		}
	}
	callers.awaitBridged(t, 5*time.Second)
	made := callers.stop(t)
	s.checkHangs(t, "accept hangs", made, hangs)
	s.checkAway(t, made, hangs)
}

func (b *bridge) threads(t *testing.T) []int {
	t.Helper()
	threads, err := b.listThreads()
	if err != nil {
		t.Fatal(err)
	}
	return threads
}

func (b *bridge) listThreads() (threads []int, err error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", b.cmd.Process.Pid))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		thread, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		threads = append(threads, thread)
	}
	return threads, nil
}
