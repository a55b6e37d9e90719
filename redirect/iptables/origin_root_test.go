//go:build root

package iptables

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/imds-bridge/imds-bridge/lab"
)

// unknown connects from a namespace that nobody sees: it is a thread's, and no process is in it. So a
// machine outside looks, and a container that may not be looked into.
func unknown(t *testing.T, b *bridge, from *lab.Namespace, to netip.AddrPort) *arrival {
	t.Helper()
	conn, err := from.DialContext(context.Background(), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return b.next(t)
}

// origin asks in the network namespace that the bridge is in.
func (b *bridge) origin(a *arrival) error {
	return b.Host().Do(func() error { return b.rules.CheckOrigin(a.Conn, a.record) })
}

func TestOtherMachinesAreNotServed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	outside, hidden, seen := addContainer(t, l, "outside"), addContainer(t, l, "hidden"), addContainer(t, l, "seen")
	b := newBridge(t, l, options(t, NFT))
	// From now on c1 leads to other machines. The rules were there before, and bring their calls.
	if err := l.Host().Do(func() error { return addDefaultRoute("c1", outside.Addr()) }); err != nil {
		t.Fatal(err)
	}
	for _, to := range []netip.AddrPort{imds4, imds6} {
		a := unknown(t, b, outside, to)
		if err := b.origin(a); !errors.Is(err, ErrOutside) || !strings.Contains(err.Error(), "by c1 (veth)") {
			t.Errorf("a call of another machine to %s: %v", to, err)
		}
		if err := b.origin(unknown(t, b, hidden, to)); err != nil {
			t.Errorf("a call of a container that is not seen to %s: %v", to, err)
		}
	}
	// Whose namespace is seen is of this host, whatever its link.
	for _, from := range []*lab.Namespace{outside, seen, l.Host()} {
		startCalls(t, from, call{To: imds4})
		if err := b.origin(b.next(t)); err != nil {
			t.Errorf("a call of a process of this host: %v", err)
		}
	}
	if n := b.rules.counts[outcomeOutside].Load(); n != 2 {
		t.Errorf("%d calls are counted as of outside", n)
	}
}

// A bridge can have hardware or virtual machines among its ports, and containers too.
func TestPortOfABridgeTellsWhoseCallItIs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	one, other := addContainer(t, l, "one"), addContainer(t, l, "other")
	ip := func(words string) {
		t.Helper()
		cmd := exec.Command("ip", strings.Fields(words)...)
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := l.Host().StartOutside(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("ip %s: %v, %s", words, err, &said)
		}
	}
	ip("link add br0 type bridge")
	ip("link set br0 up")
	for _, c := range []string{"c1", "c2"} {
		ip("address flush dev " + c)
		ip("link set " + c + " master br0")
	}
	ip("address add 172.30.1.1/30 dev br0")
	ip("address add 172.30.2.1/30 dev br0")
	b := newBridge(t, l, options(t, NFT))
	for _, n := range []*lab.Namespace{one, other} {
		if err := b.origin(unknown(t, b, n, imds4)); err != nil {
			t.Errorf("a bridge of containers: %v", err)
		}
	}
	// As if one were no container's.
	if err := l.Host().Do(func() error {
		ls, err := look()
		if err != nil {
			return err
		}
		index := func(name string) int {
			i, err := net.InterfaceByName(name)
			if err != nil {
				t.Fatal(err)
			}
			return i.Index
		}
		port := ls[index("c2")]
		port.kind = "device"
		ls[index("c2")] = port
		for n, want := range map[*lab.Namespace]bool{one: true, other: false} {
			if ok, err := ls.leadsToContainer(index("br0"), n.Addr()); ok != want || err != nil {
				t.Errorf("%s: of a container %t, %v", n.Addr(), ok, err)
			}
		}
		if ok, err := ls.leadsToContainer(index("br0"), netip.MustParseAddr("172.30.9.9")); ok || err != nil {
			t.Errorf("an address that nobody has: of a container %t, %v", ok, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestLinksAreLookedAtAnewForEachMoment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	var k knownLinks
	if err := l.Host().Do(func() error {
		moment := time.Now()
		before, err := k.since(moment)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		same, err := k.since(moment)
		if err != nil || len(same) != len(before) {
			t.Errorf("links %v, %v, though there was a look: %v", same, err, before)
		}
		after, err := k.since(time.Now())
		if len(after) != len(before)+1 {
			t.Errorf("links %v, and before %v", after, before)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
