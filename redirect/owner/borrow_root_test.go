//go:build root

package owner

import (
	"context"
	"testing"
)

// Who cannot borrow a socket reads the table, and gets the same.
func TestBorrowedSocketTellsWhatTheTableDoes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	box := container(t, l, "one")
	for _, d := range []dial{{To: imds4}, {To: imds4, V6: true}, {To: imds6}} {
		c := start(t, box, d, as(12345, 12345))
		borrowing, reading := newFinder(t, l.Host()), newFinder(t, l.Host())
		reading.dear.Store(true)
		for range 2 { // the second time by a hint
			got, want := find(t, borrowing, c, d.To), find(t, reading, c, d.To)
			if got != want || got.PID != c.pid() || got.UID != 12345 || got.Ambiguous {
				t.Errorf("%+v: borrowed %+v, read %+v", d, got, want)
			}
		}
		if borrowing.dear.Load() {
			t.Error("sockets cannot be borrowed")
		}
	}
}

// A process has many sockets, and its descriptors change: each is asked which one it is.
func TestOneOfManySocketsIsBorrowed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	box := container(t, l, "one")
	f := newFinder(t, l.Host())
	one, two := start(t, box, dial{To: imds4}), start(t, box, dial{To: imds4})
	for range 2 {
		for _, c := range []*client{one, two} {
			if got := find(t, f, c, imds4); got.PID != c.pid() {
				t.Errorf("pid %d, want %d", got.PID, c.pid())
			}
		}
	}
	one.end()
	if _, err := f.Find(context.Background(), one.local, imds4); err == nil {
		t.Error("a closed socket is found")
	}
	if got := find(t, f, two, imds4); got.PID != two.pid() {
		t.Errorf("pid %d, want %d", got.PID, two.pid())
	}
}

// The kernel puts what is borrowed into our own cgroups of net_cls.
func TestSocketWhosePacketsAreOfAnotherClassIsNotBorrowed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	box := container(t, l, "one")
	c := start(t, box, dial{To: imds4})
	f := newFinder(t, l.Host())
	s := &search{Finder: f}
	from, ok := s.lender(int(c.pid()))
	if !ok {
		t.Fatal("a socket of our own class cannot be borrowed")
	}
	from.done()
	f.class = "5:net_cls,net_prio:/shaped\n"
	if _, ok := s.lender(int(c.pid())); ok {
		t.Error("a socket of another class is borrowed")
	}
	for range 4 {
		if got := find(t, f, c, imds4); got.PID != c.pid() {
			t.Errorf("pid %d, want %d", got.PID, c.pid())
		}
	}
	if k, ok := f.kept.Get(int(c.pid())); !ok || k.pidfd >= 0 {
		t.Errorf("kept %t, to be borrowed from", ok)
	}
}
