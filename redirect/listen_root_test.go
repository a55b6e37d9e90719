//go:build root

package redirect

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

var (
	listen4 = netip.MustParseAddrPort("169.254.20.254:8254")
	listen6 = netip.MustParseAddrPort("[fd69:6d64:7362::254]:8254")
)

func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// listenIn calls Listen in a namespace. The listener must be closed there too.
func listenIn(n *lab.Namespace, at netip.AddrPort) (listener *Listener, err error) {
	err = n.Do(func() (err error) {
		listener, err = Listen(context.Background(), at)
		return err
	})
	return listener, err
}

// has says how an interface of the namespace has the address, nil when none has.
func has(t *testing.T, n *lab.Namespace, a netip.Addr) (found *netlink.Addr) {
	t.Helper()
	if err := n.Do(func() (err error) {
		found, err = findAddress(a)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// closeIn calls Close in the namespace, twice, for it is idempotent.
func closeIn(t *testing.T, n *lab.Namespace, l *Listener) {
	t.Helper()
	for range 2 {
		if err := n.Do(l.Close); err != nil {
			t.Error(err)
		}
	}
}

func mustListen(t *testing.T, n *lab.Namespace, at netip.AddrPort) *Listener {
	t.Helper()
	l, err := listenIn(n, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Do(l.Close) })
	return l
}

// addToLo adds an address to lo as an operator does, or as the bridge did.
func addToLo(t *testing.T, n *lab.Namespace, own *netlink.Addr) {
	t.Helper()
	if err := n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, own)
	}); err != nil {
		t.Fatal(err)
	}
}

var bothFamilies = map[string]netip.AddrPort{"IPv4": listen4, "IPv6": listen6}

func TestListenAddsTheAddressToLoAndCloseRemovesIt(t *testing.T) {
	t.Parallel()
	host := newLab(t).Host()
	for name, at := range bothFamilies {
		t.Run(name, func(t *testing.T) {
			l := mustListen(t, host, at)
			if got := l.Addr().(*net.TCPAddr).AddrPort(); got != at {
				t.Errorf("listens on %s", got)
			}
			a := has(t, host, at.Addr())
			if a == nil {
				t.Fatal("no interface has the address")
			}
			if ones, bits := a.Mask.Size(); ones != bits {
				t.Errorf("added as a network of %d bits", ones)
			}
			// So that nobody gets it as the source of a connection to elsewhere.
			if at.Addr().Is4() && (a.Scope != unix.RT_SCOPE_HOST || a.Label != ownLabel) {
				t.Errorf("scope %d, label %s", a.Scope, a.Label)
			}
			if at.Addr().Is6() && a.Flags&unix.IFA_F_DEPRECATED == 0 {
				t.Errorf("flags %x", a.Flags)
			}
			closeIn(t, host, l)
			if a := has(t, host, at.Addr()); a != nil {
				t.Errorf("%s is still there", a)
			}
		})
	}
}

// The hook may bring the first call at once.
func TestListenerIsReachableAtOnce(t *testing.T) {
	t.Parallel()
	host := newLab(t).Host()
	for name, at := range bothFamilies {
		t.Run(name, func(t *testing.T) {
			for i := range uint16(50) { // each on another port: see TestLeftoverIsRemovedUnlessSomebodyListens
				at := netip.AddrPortFrom(at.Addr(), at.Port()+i)
				l := mustListen(t, host, at)
				c, err := host.DialContext(t.Context(), "tcp", at.String())
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				closeIn(t, host, l)
			}
		})
	}
}

func TestListenLeavesAnAddressThatWasThere(t *testing.T) {
	t.Parallel()
	host := newLab(t).Host()
	for name, at := range bothFamilies {
		t.Run(name, func(t *testing.T) {
			operators := &netlink.Addr{IPNet: newAddress(at.Addr()).IPNet}
			if at.Addr().Is6() {
				operators.Flags = unix.IFA_F_NODAD // at once, not soon
			}
			addToLo(t, host, operators)
			closeIn(t, host, mustListen(t, host, at))
			if has(t, host, at.Addr()) == nil {
				t.Error("the operator's address is gone")
			}
		})
	}
}

func TestListenTakesOverTheAddressOfADeadBridge(t *testing.T) {
	t.Parallel()
	host := newLab(t).Host()
	for name, at := range bothFamilies {
		t.Run(name, func(t *testing.T) {
			addToLo(t, host, newAddress(at.Addr()))
			closeIn(t, host, mustListen(t, host, at))
			if a := has(t, host, at.Addr()); a != nil {
				t.Errorf("%s is still there", a)
			}
		})
	}
}

func TestListenOnLoopbackAddsNothing(t *testing.T) {
	t.Parallel()
	host := newLab(t).Host()
	for _, at := range []string{"127.0.0.1:8254", "[::1]:8254"} {
		closeIn(t, host, mustListen(t, host, netip.MustParseAddrPort(at)))
		if has(t, host, netip.MustParseAddrPort(at).Addr()) == nil {
			t.Errorf("%s is gone from lo", at)
		}
	}
}

func TestListenOnAnAddressInUseNamesItAndTouchesNothing(t *testing.T) {
	t.Parallel()
	host := newLab(t).Host()
	for name, at := range bothFamilies {
		t.Run(name, func(t *testing.T) {
			running := mustListen(t, host, at)
			second, err := listenIn(host, at)
			if err == nil {
				second.Close()
			}
			if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), at.String()) {
				t.Errorf("second bridge: %v", err)
			}
			if has(t, host, at.Addr()) == nil {
				t.Error("the running bridge's address is gone")
			}
			closeIn(t, host, running)
			if a := has(t, host, at.Addr()); a != nil {
				t.Errorf("%s is still there", a)
			}
		})
	}
}

// As when a new version takes over: it cannot have the same port.
func TestCloseLeavesTheAddressToAnotherBridge(t *testing.T) {
	t.Parallel()
	host := newLab(t).Host()
	for name, at := range bothFamilies {
		t.Run(name, func(t *testing.T) {
			first := mustListen(t, host, at)
			second := mustListen(t, host, netip.AddrPortFrom(at.Addr(), at.Port()+1))
			closeIn(t, host, first)
			if has(t, host, at.Addr()) == nil {
				t.Error("the other bridge's address is gone")
			}
			closeIn(t, host, second)
			if a := has(t, host, at.Addr()); a != nil {
				t.Errorf("%s is still there", a)
			}
		})
	}
}

func TestListenThatFailsLeavesNoAddress(t *testing.T) {
	t.Parallel()
	host := newLab(t).Host()
	for network, at := range map[string]netip.AddrPort{"tcp4": listen4, "tcp6": listen6} {
		other, err := host.Listen(network, ":8254") // on all addresses
		if err != nil {
			t.Fatal(err)
		}
		if _, err := listenIn(host, at); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("with a listener on all addresses: %v", err)
		}
		if a := has(t, host, at.Addr()); a != nil {
			t.Errorf("%s is left behind", a)
		}
		other.Close()
	}
}

// The host may have it switched on for all: see TestRecordIsThereWhenDataComesWithTheFirstSegment.
func TestListenRefusesTCPFastOpen(t *testing.T) {
	t.Parallel()
	host := newLab(t).Host()
	if err := host.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte("1543"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	for name, at := range bothFamilies {
		l := mustListen(t, host, at)
		c, err := l.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Control(func(fd uintptr) {
			if n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN); err != nil || n != 0 {
				t.Errorf("%s: a queue of %d, %v", name, n, err)
			}
		})
	}
}

func TestHasIPv6IsOfTheNamespace(t *testing.T) {
	t.Parallel()
	host := newLab(t).Host()
	for value, want := range map[string]bool{"0": true, "1": false} {
		if err := host.Do(func() error {
			err := os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte(value), 0)
			if got := HasIPv6(); got != want {
				t.Errorf("with disable_ipv6=%s: %t", value, got)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLeftoverIsRemovedUnlessSomebodyListens(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	at := netip.MustParseAddrPort("169.254.20.254:8254")
	err := l.Host().Do(func() error {
		listener, err := Listen(t.Context(), at)
		if err != nil {
			return err
		}
		if what, err := RemoveLeftover(at); what != LeftoverInUse || err != nil {
			t.Errorf("under a listener: %q, %v", what, err)
		}
		if err := listener.TCPListener.Close(); err != nil { // as a bridge that died: the address stays
			return err
		}
		// Not at once: a process that another test forks has a copy of the listener until its exec.
		what, err := RemoveLeftover(at)
		for deadline := time.Now().Add(30 * time.Second); what == LeftoverInUse && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			what, err = RemoveLeftover(at)
		}
		if what != LeftoverRemoved || err != nil {
			t.Errorf("left behind: %q, %v", what, err)
		}
		if what, err := RemoveLeftover(at); what != LeftoverNone || err != nil {
			t.Errorf("the second time: %q, %v", what, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
