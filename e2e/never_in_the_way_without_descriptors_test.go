package e2e

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Connections that say nothing take the last descriptors that the bridge may have.
func TestNeverInTheWayWithoutDescriptors(t *testing.T) {
	t.Parallel()
	i := newFaultyInstance(t)
	s := i.startStream(t, 4)
	b := i.startBridge(t, quietly)
	var hangs []period
	for range *rounds {
		s.awaitBridged(t, 5*time.Second)
		hangs = append(hangs, hang(func() (resume func()) {
			before := b.limitFiles(t, 64)
			silent := i.startSilent(t, 100, user(0))
			return func() {
				silent.stop(t)
				b.limitFiles(t, before)
			}
		}))
	}
	s.awaitBridged(t, 5*time.Second)
	checkHangs(t, outcome{Fault: "no file descriptors"}, s.stop(t), hangs)
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
