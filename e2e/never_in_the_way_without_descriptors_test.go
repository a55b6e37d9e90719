package e2e

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Connections that say nothing take the last descriptors that the bridge may have.
func TestNeverInTheWayWithoutDescriptors(t *testing.T) {
	t.Parallel()
	withEach(t, false, checkDescriptors)
}

func TestFailClosedWithoutDescriptors(t *testing.T) {
	t.Parallel()
	withEach(t, true, checkDescriptors)
}

func checkDescriptors(t *testing.T, s setting) {
	t.Parallel()
	s.cuts = true
	i := newFaultyInstance(t)
	b, callers := s.begin(t, i)
	var hangs []period
	for range s.times(1) {
		callers.awaitBridged(t, 5*time.Second)
		hangs = append(hangs, s.hang(func() (resume func()) {
			before := b.limitFiles(t, 64)
			silent := i.startSilent(t, 100, user(0))
			return func() {
				silent.stop(t)
				b.limitFiles(t, before)
			}
		}))
	}
	callers.awaitBridged(t, 5*time.Second)
	made := callers.stop(t)
	s.checkHangs(t, "no file descriptors", made, hangs)
	if cut := made.that(call.cut); len(cut) > len(made)/10 {
		t.Errorf("of %d calls cut off: %s", len(made), cut)
	}
}

// cut tells that the connection ended without an answer.
func (c call) cut() bool {
	return strings.HasSuffix(c.Error, ": EOF") || strings.HasSuffix(c.Error, ": connection reset by peer")
}

// limitFiles sets how many descriptors the bridge may have: the soft limit, which can be lifted again.
func (b *bridge) limitFiles(t *testing.T, n uint64) (before uint64) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Prlimit(b.cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	before, limit.Cur = limit.Cur, n
	if err := unix.Prlimit(b.cmd.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	return before
}
