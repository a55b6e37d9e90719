//go:build root

package owner

import (
	"context"
	"errors"
	"testing"
	"time"
)

// On a host with so many processes that one search cannot look at all of them.
func TestScanThatRanOutOfTimeGoesOnWithTheNextCall(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := start(t, l.Host(), dial{To: imds4}, as(12345, 12345))
	f := newFinder(t, l.Host())
	ctx, cancel := context.WithCancel(context.Background())
	s := &search{Finder: f, ctx: ctx}
	sock, err := s.socket(c.local, imds4)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	who := user{sock.uid, sock.netns}
	for !f.stops.Contains(who) { // it may see the end of its time before it begins
		if _, err := s.scan(who, "socket:[1]"); !errors.Is(err, ErrNoProcess) {
			t.Fatal(err)
		}
	}
	all, err := f.pids()
	if err != nil {
		t.Fatal(err)
	}
	// The first was not looked at, and is where the next one begins.
	if stop, ok := f.stops.Get(who); !ok || stop < all[len(all)-1] {
		t.Errorf("it stopped at %d, %t", stop, ok)
	}
	f.stops.Add(who, all[len(all)/2])
	if got := find(t, f, c, imds4); got.PID != c.pid() {
		t.Errorf("pid %d, want %d", got.PID, c.pid())
	}
}

// What hangs in /proc holds no call up.
func TestSearchThatTakesTooLongIsLeft(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := start(t, l.Host(), dial{To: imds4})
	f := newFinder(t, l.Host(), func(o *Options) { o.Timeout = 20 * time.Millisecond })
	f.scanning <- struct{}{} // a scan that does not end
	defer func() { <-f.scanning }()
	f.own.mu.Lock() // nor does a question to sock_diag
	defer f.own.mu.Unlock()
	began := time.Now()
	_, err := f.Find(context.Background(), c.local, imds4)
	expectError(t, err, context.DeadlineExceeded)
	if took := time.Since(began); took > patience/10 {
		t.Errorf("it took %s", took)
	}
}
