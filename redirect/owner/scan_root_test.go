//go:build root

package owner

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
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

// What takes too long holds no call up.
func TestSearchThatTakesTooLongIsLeft(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := start(t, l.Host(), dial{To: imds4})
	f := newFinder(t, l.Host(), func(o *Options) { o.Timeout = time.Nanosecond })
	f.own.turn <- struct{}{} // a question to sock_diag without an answer
	defer func() { <-f.own.turn }()
	began := time.Now()
	_, err := f.Find(context.Background(), c.local, imds4)
	expectError(t, err, context.DeadlineExceeded)
	if took := time.Since(began); took > patience/10 {
		t.Errorf("it took %s", took)
	}
}

func TestTableIsReadWhereSockDiagDoesNotAnswer(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := start(t, l.Host(), dial{To: imds4}, as(12345, 12345))
	f := newFinder(t, l.Host())
	f.own.turn <- struct{}{}
	defer func() { <-f.own.turn }()
	if got := find(t, f, c, imds4); got.PID != c.pid() || got.UID != 12345 || !got.OwnNetNS {
		t.Errorf("found %+v", got)
	}
}

// Where more hangs than may, callers are found without what can hang.
func TestCallersAreFoundWhenAllLooksHang(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	f.looks.all = maxLooks
	for where, n := range map[string]*lab.Namespace{"host": l.Host(), "container": container(t, l, "one")} {
		c := start(t, n, dial{To: imds4}, as(12345, 12345))
		for range 3 {
			if got := find(t, f, c, imds4); got.PID != c.pid() || got.UID != 12345 || got.OwnNetNS != (where == "host") {
				t.Errorf("%s: found %+v", where, got)
			}
		}
	}
	if n := f.looks.count(); n != maxLooks || f.kept.Len() != 0 {
		t.Errorf("%d looks, %d kept", n, f.kept.Len())
	}
}

// What hangs has Close wait no longer than a search may take.
func TestCloseLeavesWhatHangs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var f *Finder
	if err := l.Host().Do(func() (err error) { f, err = New(Options{}); return err }); err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	if _, ok := promptly(f, netip.Addr{}, time.Millisecond, func() bool { <-hang; return true }); ok {
		t.Error("what hangs has an answer")
	}
	began := time.Now()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > patience/10 {
		t.Errorf("it took %s", took)
	}
	close(hang)
	eventually := time.Now().Add(patience)
	for _, err := f.proc.Stat(); !errors.Is(err, os.ErrClosed); _, err = f.proc.Stat() {
		if time.Now().After(eventually) {
			t.Fatal("what has ended leaves files open")
		}
		time.Sleep(time.Millisecond)
	}
}

// A caller's own hang in one look at a time is bounded apart from all others'.
func TestLooksForOneAddressAreBounded(t *testing.T) {
	t.Parallel()
	l := newLooks()
	one, other := netip.MustParseAddr("172.17.0.2"), netip.MustParseAddr("172.17.0.3")
	for n := range maxLooksFor + 1 {
		if got := l.begin(one); got != (n < maxLooksFor) {
			t.Errorf("look %d: %t", n, got)
		}
	}
	if !l.begin(other) {
		t.Error("another's cannot begin")
	}
	for range maxLooksFor {
		l.end(one)
	}
	l.end(other)
	if l.count() != 0 || len(l.by) != 0 || !l.take(1) || l.take(1) || !l.take(2) {
		t.Errorf("at the end %+v", &l)
	}
}
