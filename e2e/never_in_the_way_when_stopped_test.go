package e2e

import (
	"syscall"
	"testing"
	"time"
)

// What is stopped neither answers nor dies, and the kernel goes on completing handshakes for it.
func TestNeverInTheWayWhenStopped(t *testing.T) {
	t.Parallel()
	withEach(t, false, checkStopped)
}

func TestFailClosedWhenStopped(t *testing.T) {
	t.Parallel()
	withEach(t, true, checkStopped)
}

func checkStopped(t *testing.T, s setting) {
	t.Parallel()
	i := newFaultyInstance(t)
	b, callers := s.begin(t, i)
	var hangs []period
	for range s.times(2) {
		callers.awaitBridged(t, 5*time.Second)
		hangs = append(hangs, s.hang(func() (resume func()) {
			b.signal(t, syscall.SIGSTOP)
			return func() { b.signal(t, syscall.SIGCONT) }
		}))
	}
	callers.awaitBridged(t, 5*time.Second)
	made := callers.stop(t)
	s.checkHangs(t, "SIGSTOP", made, hangs)
	s.checkAway(t, made, hangs)
}

func (b *bridge) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := b.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// hang makes something hang for longer than it takes calls to go straight and a client to lose patience.
// That they are refused shows at once.
func (s setting) hang(stop func() (resume func())) (h period) {
	h.from = time.Now()
	resume := stop()
	if s.closed {
		time.Sleep(untilStraight * 8 / 5)
	} else {
		time.Sleep(untilStraight * 5 / 2)
	}
	h.to = time.Now()
	resume()
	time.Sleep(untilStraight / 5) // for the calls under way: the next hang is not theirs
	return h
}
