//go:build root

package hook

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

// expectNoRecords waits until nothing is known of any connection.
func (b *bridge) expectNoRecords(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		sockets, connections := entries(t, b.hook.objects.Sockets), entries(t, b.hook.objects.Connections)
		if sockets+connections != 0 {
			return fmt.Errorf("%d sockets and %d connections are recorded", sockets, connections)
		}
		return nil
	})
}

func TestRecordIsGoneWhenTheClientCloses(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	// A kernel that gets the bridge's last word in the moment in which it closes the socket keeps it for
	// this long, by default a minute.
	if err := b.Host().Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_fin_timeout", []byte("1"), 0o644)
	}); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{imds4, imds6, mapped4} {
		client := start(t, b.Host(), []call{{To: to, Keep: true}})
		client.next(t)
		a := b.next(t)
		if _, err := b.lookup(a.Conn); err != nil {
			t.Errorf("open connection to %s: %v", to, err)
		}
		if err := client.end(); err != nil {
			t.Fatal(err)
		}
		b.expectNoRecords(t) // while the bridge's end is open
		if _, err := b.lookup(a.Conn); !errors.Is(err, redirect.ErrNoRecord) {
			t.Errorf("closed connection to %s: %v", to, err)
		}
	}
	b.expectCounters(t, map[Outcome]uint64{"redirected": 3, "joined": 3, "closed": 3})
}

func TestRecordIsGoneWhenTheBridgeCloses(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	for _, to := range []string{imds4, imds6, mapped4} {
		b.call(t, b.Host(), call{To: to})
	}
	b.expectNoRecords(t)
	b.expectCounters(t, map[Outcome]uint64{"redirected": 3, "joined": 3, "closed": 3})
}

func TestRecordIsGoneWhenTheConnectionIsRefused(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	for _, listener := range b.listeners {
		listener.TCPListener.Close() // and not its address
	}
	tos := []call{{To: imds4, Keep: true}, {To: imds6, Keep: true}, {To: mapped4, Keep: true}, {To: imds4, Keep: true, How: "non-blocking"}}
	client := start(t, b.Host(), tos)
	for _, c := range tos {
		if s := client.next(t); s.Error != "ECONNREFUSED" {
			t.Errorf("%+v: %q", c, s.Error)
		}
	}
	b.expectNoRecords(t) // while the sockets are open
	b.expectCounters(t, map[Outcome]uint64{"redirected": 4, "closed": 4})
}

// The kernel calls no hook when a connection fails for want of a route.
func TestFailedAttemptIsNoRecordOfWhatTheSocketDoesNext(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]string{"IPv4": imds4, "IPv6": imds6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBridge(t)
			host, port := b.Host().Addr(), listen4.Port()
			if first == imds6 {
				host = b.Host().Addr6()
			}
			at := netip.AddrPortFrom(host, port).String() // not the bridge's, and the same port
			elsewhere := netip.AddrPortFrom(host, port+1).String()
			for _, to := range []string{at, elsewhere} {
				l, err := b.Host().Listen("tcp", to)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
			}
			for _, to := range []string{at, elsewhere} {
				client := start(t, b.IMDS(), []call{{First: first, To: to, Keep: true}}) // has no route to the bridge
				if s := client.next(t); s.Error != "" || s.Peer != to {
					t.Errorf("connected to %s, error %q", s.Peer, s.Error)
				}
				if to == at {
					b.expectNoRecords(t)
				}
			}
			if n := entries(t, b.hook.objects.Connections); n != 0 {
				t.Errorf("%d connections are recorded", n)
			}
		})
	}
}

func TestRecordsAreBoundedAndTheNewestIsAlwaysThere(t *testing.T) {
	t.Parallel()
	const connections = 64
	entriesMost, err := lruEntries(connections)
	if err != nil {
		t.Fatal(err)
	}
	bound, times := int(entriesMost), int(entriesMost)+200
	b := newBridge(t, func(o *Options) { o.Connections = connections })
	client := start(t, b.Host(), []call{{To: imds4, Keep: true, Hear: true, Times: times}})
	for i := range times {
		a := b.next(t)
		if a.err != nil {
			t.Fatalf("connection %d: %v", i, a.err)
		}
		if err := a.Conn.(*net.TCPConn).CloseWrite(); err != nil { // the client makes the next one
			t.Fatal(err)
		}
		client.next(t)
	}
	if n := entries(t, b.hook.objects.Sockets); n > bound || n == 0 {
		t.Errorf("%d sockets are recorded", n)
	}
	if n := entries(t, b.hook.objects.Connections); n > bound || n == 0 {
		t.Errorf("%d connections are recorded", n)
	}
}

// A segment that carries data and opens the connection may wake the bridge before the caller's end
// knows that it is connected.
func TestRecordIsThereWhenDataComesWithTheFirstSegment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	// Client and server, without cookies, for every listener: Documentation/networking/ip-sysctl.rst.
	if err := l.Host().Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte("1543"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	b := newBridgeIn(t, l)
	const times = 200
	client := start(t, b.Host(), []call{
		{To: imds4, How: "fast open by sendto", Times: times},
		{To: imds6, How: "fast open by connect", Times: times},
	})
	for i := range 2 * times {
		a := b.next(t)
		if a.err != nil {
			t.Fatalf("connection %d: %v", i, a.err)
		}
		a.answer(t)
		if s := client.next(t); s.Error != "" || s.Answer != "bridge" {
			t.Fatalf("connection %d: answer %q, error %q", i, s.Answer, s.Error)
		}
	}
}

// impersonate gives a namespace the client's address and the listener's, and a listener there, and
// connects there with the same ports. It returns the impersonator and the other end of its connection.
func impersonate(t *testing.T, in *lab.Namespace, to string, client, listener netip.AddrPort) (*process, net.Conn) {
	t.Helper()
	if err := in.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, a := range []netip.Addr{client.Addr(), listener.Addr()} {
			a = a.Unmap()
			own := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: unix.IFA_F_NODAD}
			if err := netlink.AddrReplace(lo, own); err != nil {
				return err
			}
			for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				routes, err := netlink.RouteGet(a.AsSlice())
				if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
					break // the kernel adds the route to an IPv6 address a moment later
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	l, err := in.Listen("tcp", listener.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	impersonator := start(t, in, []call{{To: to, From: client.String(), Keep: true}})
	if s := impersonator.next(t); s.Error != "" || s.Peer != to {
		t.Fatalf("impersonator sees %s, error %q", s.Peer, s.Error)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if got := addrPort(conn.RemoteAddr()); got != client {
		t.Fatalf("impersonator comes from %s, not %s", got, client)
	}
	return impersonator, conn
}

func TestNoOtherNamespaceTakesTheHostsPlace(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	for name, c := range map[string]call{
		"IPv4":                           {To: imds4, Keep: true},
		"IPv6":                           {To: imds6, Keep: true},
		"IPv4 bound to a source address": {To: imds4, From: b.Host().Addr().String() + ":0", Keep: true},
	} {
		t.Run(name, func(t *testing.T) {
			victim := start(t, b.Host(), []call{c})
			victim.next(t)
			a := b.next(t)
			if a.err != nil {
				t.Fatal(a.err)
			}
			container := addContainer(t, b, "attacker: "+name)
			impersonator, _ := impersonate(t, container, c.To, addrPort(a.RemoteAddr()), addrPort(a.LocalAddr()))
			if got, err := b.lookup(a.Conn); err != nil || got != a.record {
				t.Errorf("with an impersonator the caller is %+v, %v; was %+v", got, err, a.record)
			}
			if err := impersonator.end(); err != nil {
				t.Fatal(err)
			}
			if got, err := b.lookup(a.Conn); err != nil || got != a.record {
				t.Errorf("after an impersonator the caller is %+v, %v; was %+v", got, err, a.record)
			}
		})
	}
	if counters, err := b.hook.Counters(); err != nil || counters["ambiguous"] != 0 {
		t.Errorf("counters are %v, %v", counters, err)
	}
}

func TestCallersThatCannotBeToldApartAreAmbiguous(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]string{"IPv4": imds4, "IPv6": imds6} {
		t.Run("the impersonator is second, "+name, func(t *testing.T) {
			t.Parallel()
			b := newBridge(t)
			victim, attacker := addContainer(t, b, "victim"), addContainer(t, b, "attacker")
			client := start(t, victim, []call{{To: to, Keep: true}})
			client.next(t)
			a := b.next(t)
			if a.err != nil || a.record.Ambiguous {
				t.Fatalf("without an impersonator the caller is %+v, %v", a.record, a.err)
			}
			impersonator, _ := impersonate(t, attacker, to, addrPort(a.RemoteAddr()), addrPort(a.LocalAddr()))
			if got, err := b.lookup(a.Conn); err != nil || !got.Ambiguous {
				t.Errorf("with an impersonator the caller is %+v, %v", got, err)
			}
			if err := impersonator.end(); err != nil {
				t.Fatal(err)
			}
			b.expectCounters(t, map[Outcome]uint64{"redirected": 2, "joined": 2, "ambiguous": 1, "closed": 1})
			if got, err := b.lookup(a.Conn); !errors.Is(err, redirect.ErrNoRecord) {
				t.Errorf("after an impersonator the caller is %+v, %v", got, err)
			}
		})
		t.Run("the impersonator is first, "+name, func(t *testing.T) {
			t.Parallel()
			b := newBridge(t)
			victim, attacker := addContainer(t, b, "victim"), addContainer(t, b, "attacker")
			from, listener := netip.AddrPortFrom(victim.Addr(), 23456), listen4
			if to == imds6 {
				from, listener = netip.AddrPortFrom(victim.Addr6(), 23456), listen6
			}
			impersonator, _ := impersonate(t, attacker, to, from, listener)
			client := start(t, victim, []call{{To: to, From: from.String(), Keep: true}})
			client.next(t)
			a := b.next(t)
			if a.err != nil || !a.record.Ambiguous || a.record.NetNS != uint32(inode(t, victim.Path())) {
				t.Errorf("with an impersonator the caller is %+v, %v", a.record, a.err)
			}
			if err := impersonator.end(); err != nil {
				t.Fatal(err)
			}
			b.expectCounters(t, map[Outcome]uint64{"redirected": 2, "joined": 2, "ambiguous": 1, "closed": 1})
			if got, err := b.lookup(a.Conn); err != nil || got != a.record {
				t.Errorf("after an impersonator the caller is %+v, %v; was %+v", got, err, a.record)
			}
			if err := client.end(); err != nil {
				t.Fatal(err)
			}
			b.expectNoRecords(t)
		})
	}
}
