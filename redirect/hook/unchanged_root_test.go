//go:build root

package hook

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

// addNeighbours gives IMDS's end of the wire the addresses of what else lives there, and the host
// a route to them.
func addNeighbours(t *testing.T, l *lab.Lab, addrs ...string) {
	t.Helper()
	for _, text := range addrs {
		a := netip.MustParseAddr(text)
		to := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
		uplink := func(f func(netlink.Link) error) func() error {
			return func() error {
				link, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				return f(link)
			}
		}
		if err := errors.Join(
			l.IMDS().Do(uplink(func(link netlink.Link) error {
				own := &netlink.Addr{IPNet: to}
				if a.Is6() {
					own.Flags = unix.IFA_F_NODAD
				}
				return netlink.AddrAdd(link, own)
			})),
			l.Host().Do(uplink(func(link netlink.Link) error {
				return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK})
			})),
		); err != nil {
			t.Fatal(text, err)
		}
	}
}

func TestOtherAddressesAndPortsAreLeftAlone(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	addNeighbours(t, b.Lab, "169.254.169.253", "169.254.169.123", "169.254.170.2", "169.254.170.23",
		"fd00:ec2::23", "fd00:ec2::253", "fd00:ec2:0:1::254", "fd00:ec2::1:0:254")
	var calls []call
	for _, to := range []string{
		"169.254.169.253:80", "169.254.169.123:80", // DNS, time
		"169.254.170.2:80", "169.254.170.23:80", "[fd00:ec2::23]:80", // credentials of ECS, EKS
		"[fd00:ec2::253]:80",
		"[fd00:ec2:0:1::254]:80", "[fd00:ec2::1:0:254]:80", // the same last word
		"169.254.169.254:81", "169.254.169.254:443", "169.254.169.254:8080", "[fd00:ec2::254]:81",
		"169.254.169.254:20480", // 80 in the other byte order
	} {
		standIn(t, b.Lab, to)
		calls = append(calls, call{To: to})
	}
	b.expectIMDS(t, b.Host(), calls...)
	b.expectCounters(t, nil)
}

// answerDatagrams stands in for IMDS as standIn does, by UDP.
func answerDatagrams(t *testing.T, l *lab.Lab, addrs ...string) {
	t.Helper()
	for _, at := range addrs {
		var server net.PacketConn
		if err := l.IMDS().Do(func() (err error) {
			server, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", at)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		t.Cleanup(func() { server.Close(); <-ended })
		go func() {
			defer close(ended)
			buffer := make([]byte, 512)
			for {
				_, from, err := server.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = server.WriteTo([]byte("imds "+at), from)
			}
		}()
	}
}

func TestUDPIsLeftAlone(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	answerDatagrams(t, b.Lab, imds4, imds6)
	// A datagram without connect() passes no hook at all.
	b.expectIMDS(t, b.Host(), call{To: imds4, How: "udp without connect"}, call{To: imds6, How: "udp without connect"})
	b.expectCounters(t, nil)
	b.expectIMDS(t, b.Host(), call{To: imds4, How: "udp"}, call{To: imds6, How: "udp"})
	b.expectCounters(t, map[Outcome]uint64{"not_tcp": 2})
}

func TestWithoutAListenerForAFamilyItIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		change         func(*Options)
		alone, brought []string
	}{
		{"IPv6", func(o *Options) { o.Listen6 = netip.AddrPort{} }, []string{imds6}, []string{imds4, mapped4}},
		{"IPv4", func(o *Options) { o.Listen = netip.AddrPort{} }, []string{imds4, mapped4}, []string{imds6}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBridge(t, tt.change)
			standIn(t, b.Lab, imds4, imds6)
			client := start(t, b.Host(), calls(tt.alone))
			for _, to := range tt.alone {
				if s := client.next(t); s.Peer != to || s.Answer != "imds "+plain(to) {
					t.Errorf("call to %s: answer %q from %s", to, s.Answer, s.Peer)
				}
			}
			b.expectCounters(t, map[Outcome]uint64{"no_listener": uint64(len(tt.alone))})
			for _, to := range tt.brought {
				expectCall(t, b, b.Host(), call{To: to})
			}
		})
	}
}

func calls(to []string) (cs []call) {
	for _, a := range to {
		cs = append(cs, call{To: a})
	}
	return cs
}

// plain is an address without its form as one of IPv6.
func plain(addr string) string {
	a := mustAddrPort(addr)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}

func TestMarkedSocketOfTheBridgesNamespaceGoesToIMDS(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	standIn(t, b.Lab, imds4, imds6)
	b.expectIMDS(t, b.Host(), call{To: imds4, Mark: mark}, call{To: imds6, Mark: mark},
		call{To: imds4, Mark: mark | 0xabcd<<16}) // another bridge's self-check
	b.expectCounters(t, map[Outcome]uint64{"exempt": 3})

	for _, c := range []call{{To: imds4}, {To: imds6}, {To: imds4, Mark: mark + 1}, {To: imds6, Mark: mark + 1}} {
		expectCall(t, b, b.Host(), c)
	}
}

// Whoever has CAP_NET_ADMIN over its own namespace may set any mark there.
func TestMarkDoesNotExemptAContainer(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	container := addContainer(t, b, "one")
	for _, to := range []string{imds4, imds6} {
		expectCall(t, b, container, call{To: to, Mark: mark})
	}
	b.expectCounters(t, map[Outcome]uint64{"redirected": 2, "joined": 2, "closed": 2})
}

// A device other than lo does not lead to the listener.
func TestSocketBoundToADeviceGoesToIMDS(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	standIn(t, b.Lab, imds4, imds6)
	b.expectIMDS(t, b.Host(), call{To: imds4, Device: "eth0"}, call{To: imds6, Device: "eth0"})
	b.expectCounters(t, map[Outcome]uint64{"bound_device": 2})
	expectCall(t, b, b.Host(), call{To: imds4, Device: "lo"})
}

func TestOtherNamespacesAreLeftAloneWhenAskedFor(t *testing.T) {
	t.Parallel()
	b := newBridge(t, func(o *Options) { o.OwnNetNSOnly = true })
	standIn(t, b.Lab, imds4, imds6)
	b.expectIMDS(t, addContainer(t, b, "one"), call{To: imds4}, call{To: imds6})
	b.expectCounters(t, map[Outcome]uint64{"other_netns": 2})
	expectCall(t, b, b.Host(), call{To: imds4})
}

// A container's 127.0.0.1 is the container's own.
func TestLoopbackListenerServesNoOtherNamespace(t *testing.T) {
	t.Parallel()
	b := newBridge(t, func(o *Options) {
		o.Listen, o.Listen6 = mustAddrPort("127.0.0.1:8254"), mustAddrPort("[::1]:8254")
	})
	standIn(t, b.Lab, imds4, imds6)
	b.expectIMDS(t, addContainer(t, b, "one"), call{To: imds4}, call{To: imds6})
	b.expectCounters(t, map[Outcome]uint64{"other_netns": 2})
	for _, to := range []string{imds4, imds6, mapped4} {
		expectCall(t, b, b.Host(), call{To: to})
	}
}

func TestSilentBridgeGetsNoCalls(t *testing.T) {
	t.Parallel()
	b := newBridge(t, func(o *Options) { o.Heartbeat = time.Millisecond })
	standIn(t, b.Lab, imds4, imds6)
	attached := clock(t)
	eventually(t, func() error { // Attach was the last sign of life
		if clock(t) < attached+2*time.Millisecond {
			return errors.New("time stands still")
		}
		return nil
	})
	b.expectIMDS(t, b.Host(), call{To: imds4}, call{To: imds6})
	b.expectCounters(t, map[Outcome]uint64{"stale": 2})
}

func TestBridgeThatBeatsAgainGetsCallsAgain(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	standIn(t, b.Lab, imds4, imds6)
	expectCall(t, b, b.Host(), call{To: imds4})

	b.silence(t)
	b.expectIMDS(t, b.Host(), call{To: imds4}, call{To: imds6})
	b.expectCounters(t, map[Outcome]uint64{"redirected": 1, "joined": 1, "closed": 1, "stale": 2})

	if err := b.hook.Beat(); err != nil {
		t.Fatal(err)
	}
	expectCall(t, b, b.Host(), call{To: imds4})
	expectCall(t, b, b.Host(), call{To: imds6})
}

func TestConnectionStraightToTheListenerHasNoRecord(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	container := addContainer(t, b, "one")
	for _, from := range []*lab.Namespace{b.Host(), container} {
		for _, to := range []string{listen4.String(), listen6.String()} {
			client := start(t, from, []call{{To: to}})
			a := b.next(t)
			if !errors.Is(a.err, redirect.ErrNoRecord) {
				t.Errorf("call to %s was recorded: %+v, %v", to, a.record, a.err)
			}
			a.answer(t)
			if s := client.next(t); s.Peer != to {
				t.Errorf("call to %s: the client's peer is %s", to, s.Peer)
			}
		}
	}
	b.expectCounters(t, nil)
}
