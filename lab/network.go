package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The metadata service's addresses, and the ranges that reach it. The IPv4 ranges are not those
// that Docker gives its first networks, so that a dockerd may run in the host's namespace.
var (
	imds4 = netip.MustParsePrefix("169.254.169.254/32")
	imds6 = netip.MustParsePrefix("fd00:ec2::254/128")

	imdsEnd4 = netip.MustParsePrefix("172.31.0.1/30")
	hostEnd4 = netip.MustParsePrefix("172.31.0.2/30")
	imdsEnd6 = netip.MustParsePrefix("fd6c:6162::1/64")
	hostEnd6 = netip.MustParsePrefix("fd6c:6162::2/64")

	containers4 = netip.MustParsePrefix("172.30.0.0/16")
	containers6 = netip.MustParsePrefix("fd6c:6162:1::/48")

	everything4 = netip.MustParsePrefix("0.0.0.0/0")
	everything6 = netip.MustParsePrefix("::/0")
)

const maxContainers = 254

// uplink is the name of the interface that leads towards the metadata service, or away from it.
const uplink = "eth0"

// kernelHasIPv6 is false after a boot with ipv6.disable=1.
func kernelHasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6/conf")
	return err == nil
}

// prepare makes the calling thread's new namespace one in which addresses are usable at once. It
// comes before the first link, which takes its settings from "default".
func prepare(ipv6 bool) error {
	// A new namespace has the rp_filter of the initial one (net.core.devconf_inherit_init_net).
	settings := []struct{ key, value string }{
		{"ipv4/conf/all/rp_filter", "0"},
		{"ipv4/conf/default/rp_filter", "0"},
	}
	if ipv6 {
		settings = append(settings, []struct{ key, value string }{
			{"ipv6/conf/all/disable_ipv6", "0"},
			{"ipv6/conf/default/disable_ipv6", "0"},
			{"ipv6/conf/default/accept_dad", "0"},
		}...)
	}
	for _, s := range settings {
		if err := setSysctl(s.key, s.value); err != nil {
			return err
		}
	}
	return up("lo")
}

// setSysctl writes a setting of the calling thread's network namespace: the kernel looks below
// /proc/sys/net with the eyes of the thread that opens the file.
func setSysctl(key, value string) error {
	if err := writeControl(filepath.Join("/proc/sys/net", key), value); err != nil {
		return fmt.Errorf("set network setting: %w", err)
	}
	return nil
}

// connectIMDS lays the wire between the instance and its metadata service.
func (l *Lab) connectIMDS() error {
	l.imds.addr4, l.host.addr4 = imds4.Addr(), hostEnd4.Addr()
	imdsAddrs, hostAddrs := []netip.Prefix{imds4, imdsEnd4}, []netip.Prefix{hostEnd4}
	if l.ipv6 {
		l.imds.addr6, l.host.addr6 = imds6.Addr(), hostEnd6.Addr()
		imdsAddrs, hostAddrs = append(imdsAddrs, imds6, imdsEnd6), append(hostAddrs, hostEnd6)
	}
	if err := l.host.Do(func() error {
		if err := l.forward(); err != nil {
			return err
		}
		if err := addVeth(uplink, l.imds); err != nil {
			return err
		}
		return configure(uplink, hostAddrs)
	}); err != nil {
		return fmt.Errorf("connect the instance: %w", err)
	}
	if err := l.imds.Do(func() error {
		if err := configure(uplink, imdsAddrs); err != nil {
			return err
		}
		return l.route(uplink, containers4, hostEnd4.Addr(), containers6, hostEnd6.Addr())
	}); err != nil {
		return fmt.Errorf("connect the metadata service: %w", err)
	}
	if err := l.host.Do(func() error {
		return l.route(uplink, imds4, netip.Addr{}, imds6, netip.Addr{})
	}); err != nil {
		return fmt.Errorf("route the instance to its metadata service: %w", err)
	}
	return awaitReady(l.host, uplink, l.imds)
}

// forward makes the calling thread's namespace pass packets on.
func (l *Lab) forward() error {
	if err := setSysctl("ipv4/ip_forward", "1"); err != nil || !l.ipv6 {
		return err
	}
	return setSysctl("ipv6/conf/all/forwarding", "1")
}

// connectContainer lays the wire between a container and the host, which is its default route.
func (l *Lab) connectContainer(n *Namespace, number int) error {
	if number > maxContainers {
		return fmt.Errorf("a lab has room for %d", maxContainers)
	}
	link := fmt.Sprintf("c%d", number)
	gate4, gate6 := containerAddrs(number, 1)
	own4, own6 := containerAddrs(number, 2)
	gate, own := []netip.Prefix{gate4}, []netip.Prefix{own4}
	n.addr4 = own4.Addr()
	if l.ipv6 {
		n.addr6 = own6.Addr()
		gate, own = append(gate, gate6), append(own, own6)
	}
	if err := l.host.Do(func() error {
		if err := addVeth(link, n); err != nil {
			return err
		}
		return configure(link, gate)
	}); err != nil {
		return err
	}
	if err := n.Do(func() error {
		if err := configure(uplink, own); err != nil {
			return err
		}
		return l.route(uplink, everything4, gate4.Addr(), everything6, gate6.Addr())
	}); err != nil {
		return err
	}
	return awaitReady(l.host, link, n)
}

// containerAddrs is the given host of the network of one container.
func containerAddrs(number, host int) (v4, v6 netip.Prefix) {
	a, b := containers4.Addr().As4(), containers6.Addr().As16()
	a[2], a[3] = byte(number), byte(host)
	b[7], b[15] = byte(number), byte(host)
	return netip.PrefixFrom(netip.AddrFrom4(a), 30), netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// addVeth joins the calling thread's namespace to another, in which the end is called uplink.
func addVeth(name string, peer *Namespace) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs:     attrs,
		PeerName:      uplink,
		PeerNamespace: netlink.NsFd(peer.handle),
	}); err != nil {
		return fmt.Errorf("add veth %s: %w", name, err)
	}
	return nil
}

// configure gives a link addresses that are usable at once, and sets it up.
func configure(name string, addrs []netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	for _, p := range addrs {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", p, name, err)
		}
	}
	return up(name)
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// awaitReady waits until both ends of a veth can send and are known by their addresses. Links and
// IPv6 addresses come up on work queues of the kernel; before that it drops without a word, and
// what is sent again is sent a second later (net/core/link_watch.c, net/ipv6/addrconf.c).
func awaitReady(near *Namespace, link string, far *Namespace) error {
	wait := func(name string) error {
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			ready, err := isReady(name)
			if ready || err != nil {
				return err
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("link %s does not come up", name)
			}
		}
	}
	if err := near.Do(func() error { return wait(link) }); err != nil {
		return err
	}
	return far.Do(func() error { return wait(uplink) })
}

func isReady(name string) (bool, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return false, fmt.Errorf("find link %s: %w", name, err)
	}
	if link.Attrs().OperState != netlink.OperUp {
		return false, nil
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, nil // addresses change at this moment: ask again
	}
	if err != nil {
		return false, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	return !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 }), nil
}

// route sends each destination over a link to a gateway, or, if that is the zero Addr, to a neighbour.
func (l *Lab) route(name string, dst4 netip.Prefix, via4 netip.Addr, dst6 netip.Prefix, via6 netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	add := func(dst netip.Prefix, via netip.Addr) error {
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst), Gw: via.AsSlice()}
		if !via.IsValid() {
			r.Scope = netlink.SCOPE_LINK
		}
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("add route to %s: %w", dst, err)
		}
		return nil
	}
	if err := add(dst4, via4); err != nil || !l.ipv6 {
		return err
	}
	return add(dst6, via6)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
