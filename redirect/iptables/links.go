package iptables

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Kinds of links, as netlink names them.
const (
	kindBridge   = "bridge"
	kindLoopback = "loopback"
)

// pairs have their other end in another network namespace, which is a container's if it is not ours.
var pairs = []string{"veth", "netkit"}

// away are the kinds of links that lead to other machines: hardware, what is made of it, and tunnels. A
// virtual machine is one of them. Of kinds that are in neither list, each call has to be judged.
var away = []string{
	"device", "vlan", "bond", "team",
	"tuntap", "wireguard", "ovpn", "ppp", "xfrm", "vti", "vti6",
	"gre", "gretap", "ip6gre", "ip6gretap", "ipip", "ip6tnl", "sit", "vxlan", "geneve",
}

// link is one of a network namespace.
type link struct {
	name       string
	kind       string
	master     int  // index of the bridge that it is a port of
	everywhere bool // it has a default route
}

func (l link) isPair() bool { return slices.Contains(pairs, l.kind) }

// links are those of a network namespace, by index.
type links map[int]link

// look lists the links of this network namespace.
func look() (links, error) {
	all, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list links: %w", err)
	}
	ls := make(links, len(all))
	for _, l := range all {
		attrs := l.Attrs()
		seen := link{name: attrs.Name, kind: l.Type(), master: attrs.MasterIndex}
		if attrs.Flags&net.FlagLoopback != 0 {
			seen.kind = kindLoopback
		}
		ls[attrs.Index] = seen
	}
	return ls, ls.findDefaultRoutes()
}

// findDefaultRoutes looks in all tables.
func (ls links) findDefaultRoutes() error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst != nil && !isEverything(r.Dst.String()) || r.Type != unix.RTN_UNICAST {
				continue
			}
			indexes := []int{r.LinkIndex}
			for _, hop := range r.MultiPath {
				indexes = append(indexes, hop.LinkIndex)
			}
			for _, index := range indexes {
				if l, ok := ls[index]; ok {
					l.everywhere = true
					ls[index] = l
				}
			}
		}
	}
	return nil
}

func isEverything(prefix string) bool { return prefix == "0.0.0.0/0" || prefix == "::/0" }

// outside are the names of the links that lead to other machines and to no container.
func (ls links) outside() (names []string) {
	for index, l := range ls {
		if l.everywhere || slices.Contains(away, l.kind) || l.kind == kindBridge && ls.bridgesOthers(index) {
			names = append(names, l.name)
		}
	}
	slices.Sort(names)
	return names
}

// bridgesOthers tells whether a bridge has ports, and none is a container's: it is for virtual machines. One
// without any may get some yet.
func (ls links) bridgesOthers(bridge int) bool {
	ports := ls.ports(bridge)
	return len(ports) > 0 && !slices.ContainsFunc(ports, link.isPair)
}

func (ls links) ports(bridge int) (ports []link) {
	for _, l := range ls {
		if l.master == bridge {
			ports = append(ports, l)
		}
	}
	return ports
}

// leadsToContainer tells whether a link leads to nothing but containers of this host, as far as hop, which is
// the next one on the way to a caller, is concerned.
func (ls links) leadsToContainer(index int, hop netip.Addr) (bool, error) {
	l := ls[index]
	switch {
	case l.everywhere:
		return false, nil
	case l.isPair():
		return true, nil
	case l.kind != kindBridge:
		return false, nil
	}
	ports := ls.ports(index)
	if len(ports) > 0 && !slices.ContainsFunc(ports, func(p link) bool { return !p.isPair() }) {
		return true, nil
	}
	port, err := portToward(index, hop)
	return ls[port].isPair(), err
}

// portToward is the index of the port of a bridge behind which a neighbour is, 0 if that is not known.
func portToward(bridge int, hop netip.Addr) (int, error) {
	family := unix.AF_INET
	if hop.Is6() {
		family = unix.AF_INET6
	}
	neighbours, err := netlink.NeighList(bridge, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return 0, fmt.Errorf("list neighbours: %w", err)
	}
	at := slices.IndexFunc(neighbours, func(n netlink.Neigh) bool { return n.IP.Equal(hop.AsSlice()) && len(n.HardwareAddr) > 0 })
	if at < 0 {
		return 0, nil
	}
	forwarding, err := netlink.NeighList(0, unix.AF_BRIDGE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return 0, fmt.Errorf("list what is behind the ports of bridges: %w", err)
	}
	for _, f := range forwarding {
		if f.MasterIndex == bridge && bytes.Equal(f.HardwareAddr, neighbours[at].HardwareAddr) {
			return f.LinkIndex, nil
		}
	}
	return 0, nil
}

// restFactor is how many times as long as a look at the links takes there is none after it: callers whom nobody
// knows can be many.
const restFactor = 9

// knownLinks are the links as they were a moment ago.
type knownLinks struct {
	mu    sync.Mutex
	began time.Time
	took  time.Duration
	last  links
}

// since returns what was seen no earlier than t: a container may be as young as its call. Those who wait
// share one look.
func (k *knownLinks) since(t time.Time) (links, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.began.Before(t) {
		return k.last, nil
	}
	time.Sleep(time.Until(k.began.Add((1 + restFactor) * k.took)))
	began := time.Now()
	ls, err := look()
	if err != nil {
		return nil, err
	}
	k.began, k.took, k.last = began, time.Since(began), ls
	return ls, nil
}
