package e2e

import (
	"syscall"
	"testing"
	"time"
)

// What is stopped neither answers nor dies, and the kernel goes on completing handshakes for it.
func TestNeverInTheWayWhenStopped(t *testing.T) {
	t.Parallel()
	for _, r := range redirectors {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			i := newFaultyInstance(t)
			s := i.startStream(t, 4)
			b := i.startBridge(t, r.options())
			var hangs []period
			for range 2 * *rounds {
				s.awaitBridged(t, 5*time.Second)
				hangs = append(hangs, hang(func() (resume func()) {
					b.signal(t, syscall.SIGSTOP)
					return func() { b.signal(t, syscall.SIGCONT) }
				}))
			}
			s.awaitBridged(t, 5*time.Second)
			made := s.stop(t)
			checkHangs(t, outcome{Fault: "SIGSTOP, " + r.name}, made, hangs)
			checkStraight(t, made, hangs)
		})
	}
}

func (b *bridge) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := b.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// hang makes something hang for longer than it takes calls to go straight and a client to lose patience.
func hang(stop func() (resume func())) (h period) {
	h.from = time.Now()
	resume := stop()
	time.Sleep(untilStraight * 5 / 2)
	h.to = time.Now()
	resume()
	time.Sleep(untilStraight / 5) // for the calls under way: the next hang is not theirs
	return h
}
