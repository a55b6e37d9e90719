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
	find(t, f, c, imds4)
	ask := func() socket { return f.askProcess(holder{int(c.pid()), f.heldBy(t, c)}, c.local, imds4) }
	if got := ask(); got.inode == 0 {
		t.Fatal("a socket of our own class cannot be borrowed")
	}
	f.class = "5:net_cls,net_prio:/shaped\n"
	if got := ask(); got.inode != 0 {
		t.Errorf("a socket of another class is borrowed: %+v", got)
	}
	for range 4 {
		if got := find(t, f, c, imds4); got.PID != c.pid() {
			t.Errorf("pid %d, want %d", got.PID, c.pid())
		}
	}
}

// heldBy is the descriptor by which a client was found.
func (f *Finder) heldBy(t *testing.T, c *client) int {
	t.Helper()
	for _, who := range f.hints.Keys() {
		known, _ := f.hints.Get(who)
		for _, h := range known {
			if h.pid == int(c.pid()) {
				return h.fd
			}
		}
	}
	t.Fatalf("nobody knows of %d", c.pid())
	return -1
}
