//go:build root

package owner

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/imds-bridge/imds-bridge/lab"
)

func TestSharedSocketIsTheParentsAndAmbiguous(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for range 3 { // the second time by a hint
		f := newFinder(t, l.Host())
		c := start(t, l.Host(), dial{To: imds4, Heir: "stay"})
		for range 2 {
			if got := find(t, f, c, imds4); got.PID != c.pid() || !got.Ambiguous {
				t.Errorf("pid %d, ambiguous %t; parent %d, child %d", got.PID, got.Ambiguous, c.pid(), c.heir)
			}
		}
	}
}

func TestSocketThatAChildAloneHasIsTheChilds(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	c := start(t, l.Host(), dial{To: imds4, Heir: "orphan"})
	if got := find(t, f, c, imds4); got.PID != uint32(c.heir) || got.PPID != c.pid() || got.Ambiguous {
		t.Errorf("pid %d of %d, ambiguous %t; parent %d, child %d", got.PID, got.PPID, got.Ambiguous, c.pid(), c.heir)
	}
}

// A child that is being started has all sockets until its exec.
func TestSocketOfAProcessThatStartsOthersIsNotAmbiguous(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	c := start(t, l.Host(), dial{To: imds4, Heir: "others"})
	for range 50 {
		if got := find(t, f, c, imds4); got.Ambiguous || got.PID != c.pid() {
			t.Errorf("pid %d, want %d; ambiguous %t", got.PID, c.pid(), got.Ambiguous)
		}
	}
}

func TestSocketOfAnotherUserIsAmbiguous(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	c := start(t, l.Host(), dial{To: imds4}, as(12345, 12345))
	s := &search{Finder: f, ctx: context.Background()}
	sock, err := s.socket(c.local, imds4)
	if err != nil {
		t.Fatal(err)
	}
	if sock.uid != 12345 {
		t.Errorf("the socket is of %d", sock.uid)
	}
	got := find(t, f, c, imds4)
	if got.Ambiguous {
		t.Error("ambiguous")
	}
	sock.uid = 54321
	if err := s.identify(&got, sock); err != nil || !got.Ambiguous {
		t.Errorf("not ambiguous: %v", err)
	}
}

func TestSameAddressesInTwoNamespacesAreAmbiguous(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	f.others.maxAge = 0
	one, two := container(t, l, "one"), container(t, l, "two")
	// The second gives itself the first one's address, and a way to a service of that address.
	shadow(t, two, one)
	from := netip.AddrPortFrom(one.Addr(), 50000)
	c := start(t, one, dial{To: imds4, From: from})
	if got := find(t, f, c, imds4); got.Ambiguous || got.PID != c.pid() {
		t.Errorf("pid %d, want %d; ambiguous %t", got.PID, c.pid(), got.Ambiguous)
	}
	start(t, two, dial{To: imds4, From: from})
	if got := find(t, f, c, imds4); !got.Ambiguous {
		t.Error("not ambiguous")
	}
}

func container(t testing.TB, l *lab.Lab, name string) *lab.Namespace {
	t.Helper()
	n, err := l.AddContainer(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// shadow gives a namespace the address of another, and its own service in the place of IMDS.
func shadow(t *testing.T, n, of *lab.Namespace) {
	t.Helper()
	if err := n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range []netip.Addr{of.Addr(), imds4.Addr()} {
			ip, err := netlink.ParseAddr(a.String() + "/32")
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(lo, ip); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	hold(t, n, imds4)
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	c := start(t, l.Host(), dial{To: imds4})
	for name, at := range map[string]struct{ client, server netip.AddrPort }{
		"another port":        {netip.AddrPortFrom(c.local.Addr(), c.local.Port()^1), imds4},
		"another destination": {c.local, imds6},
		"another address":     {netip.AddrPortFrom(netip.MustParseAddr("172.31.0.3"), c.local.Port()), imds4},
		"loopback":            {netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), c.local.Port()), imds4},
		"a listener's port":   {imds4, netip.AddrPortFrom(c.local.Addr(), 1)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := f.Find(context.Background(), at.client, at.server)
			expectError(t, err, ErrNoSocket)
			if got.PID != 0 {
				t.Errorf("found %+v", got)
			}
		})
	}
	c.end()
	if _, err := f.Find(context.Background(), c.local, imds4); !errors.Is(err, ErrNoSocket) {
		t.Errorf("the closed socket: %v", err)
	}
}

func TestSearchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	c := start(t, l.Host(), dial{To: imds4})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := f.Find(ctx, c.local, imds4)
	expectError(t, err, context.Canceled)
}
