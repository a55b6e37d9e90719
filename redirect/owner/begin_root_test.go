//go:build root

package owner

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

// begin begins a search for the latest connection of a process, as a bridge on the host does. It returns nil where nobody is
// likely.
func (m *moody) begin(t *testing.T, host *lab.Namespace, f *Finder, own bool) func(t *testing.T) redirect.Connection {
	t.Helper()
	var likely, ok bool
	var found func() (redirect.Connection, error)
	err := host.Do(func() error {
		likely, found, ok = f.Begin(m.local, imds4)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return nil
	}
	if likely != own {
		t.Errorf("likely to be of our own namespace: %t", likely)
	}
	return func(t *testing.T) redirect.Connection {
		t.Helper()
		c, err := found()
		if err != nil {
			t.Fatal(err)
		}
		c.Socket = 0
		return c
	}
}

// What is begun ends with what Find says, for the one who was likely and for another.
// It is not parallel: another lab has a container of the same address.
func TestBegunSearchFindsWhoCalls(t *testing.T) {
	l := newLab(t)
	box := container(t, l, "one")
	for where, n := range map[string]*lab.Namespace{"host": l.Host(), "container": box} {
		t.Run(where, func(t *testing.T) {
			f := newFinder(t, l.Host())
			own := n == l.Host()
			m := startMoody(t, n)
			if m.begin(t, l.Host(), f, own) != nil {
				t.Error("somebody is likely before anybody called")
			}
			want := acquaint(t, f, m)
			for range 3 {
				found := m.begin(t, l.Host(), f, own)
				if found == nil && !own {
					return // another lab has a container of the same address
				}
				if found == nil {
					t.Fatal("nobody is likely")
				}
				if c := found(t); c != want {
					t.Errorf("found\n%+v, want\n%+v", c, want)
				}
				m.tell(t, "connect")
				m.find(t, f)
			}
			other := startMoody(t, n)
			if found := other.begin(t, l.Host(), f, own); found == nil {
				t.Error("nobody is likely")
			} else if c := found(t); c.PID != uint32(other.Process.Pid) || c.OwnNetNS != own || c.Ambiguous {
				t.Errorf("found %+v, want %d", c, other.Process.Pid)
			}
		})
	}
}

// Who is new is looked for at once: he may not wait until somebody asks.
func TestBegunSearchFindsWhoIsGoneSince(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	acquaint(t, f, startMoody(t, l.Host()))
	other := startMoody(t, l.Host())
	found := other.begin(t, l.Host(), f, true)
	if found == nil {
		t.Fatal("nobody is likely")
	}
	time.Sleep(100 * time.Millisecond)
	other.end()
	if c := found(t); c.PID != uint32(other.Process.Pid) {
		t.Errorf("found %+v, want %d", c, other.Process.Pid)
	}
}

// A process that holds up who looks at it does not hold up who is taken for it.
func TestBegunSearchIsNotHeldUp(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	m, other := startMoody(t, l.Host()), startMoody(t, l.Host())
	acquaint(t, f, m)
	m.tell(t, "hold-up")
	begun := time.Now()
	found := other.begin(t, l.Host(), f, true)
	if found == nil {
		t.Fatal("nobody is likely")
	}
	if took := time.Since(begun); took > lookPatience {
		t.Errorf("to begin took %s", took)
	}
	if c := found(t); c.PID != uint32(other.Process.Pid) {
		t.Errorf("found %+v, want %d", c, other.Process.Pid)
	}
	if took := time.Since(begun); took > defaultTimeout+lookPatience {
		t.Errorf("it took %s", took)
	}
}

// An address that was ours may be another's a moment later, and no more are remembered than there is room for.
func TestOwnAddressesAreAskedForAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	elsewhere := netip.MustParseAddr("192.0.2.1")
	f.others.ours[elsewhere] = time.Now()
	if !f.others.isLikelyOwn(elsewhere) {
		t.Error("what was ours a moment ago is not likely to be")
	}
	f.others.ours[elsewhere] = time.Now().Add(-2 * refreshAfter)
	if f.others.isLikelyOwn(elsewhere) {
		t.Error("what was ours long ago is still")
	}
	for a := netip.MustParseAddr("127.1.0.1"); a != netip.MustParseAddr("127.1.1.1"); a = a.Next() {
		if !f.others.isLikelyOwn(a) {
			t.Fatalf("%s is not ours", a)
		}
	}
	if n := len(f.others.ours); n > maxOurs {
		t.Errorf("%d are remembered", n)
	}
}

// What was found is told however late it is asked for.
func TestSearchThatEndedInTimeIsNotLate(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	m := startMoody(t, l.Host())
	m.find(t, f)
	f.timeout = 50 * time.Millisecond
	for range 12 {
		found := f.longer(context.Background(), m.local, imds4)
		time.Sleep(2 * f.timeout)
		if c, err := found(); err != nil || c.PID != uint32(m.Process.Pid) {
			t.Errorf("found %+v, %v", c, err)
		}
	}
}

// Where somebody shares his sockets, what is likely would be wrong time and again.
func TestNobodyIsLikelyWhereSocketsAreShared(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	m, other := startMoody(t, l.Host()), startMoody(t, l.Host())
	acquaint(t, f, m)
	other.tell(t, "fork heir")
	found := other.begin(t, l.Host(), f, true)
	if found == nil {
		t.Fatal("nobody is likely")
	}
	if c := found(t); !c.Ambiguous {
		t.Errorf("found %+v", c)
	}
	m.tell(t, "connect")
	if m.begin(t, l.Host(), f, true) != nil {
		t.Error("somebody is likely")
	}
	f.doubts.Add(m.local.Addr(), time.Now().Add(-2*doubt))
	if m.begin(t, l.Host(), f, true) == nil {
		t.Error("nobody is likely any longer")
	}
}
