package doctor

import (
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/imds-bridge/imds-bridge/imds"
)

// containerLink is an interface by which containers reach the host.
type containerLink struct {
	name    string
	subnets []netip.Prefix
}

// maxLinks bounds the interfaces that are looked at: with a pair for each container, as most CNI
// plugins make them, rules for one are rules for all.
const maxLinks = 8

// containerLinks are the bridges, and the ends of pairs that are in no bridge, which are up.
func containerLinks() (list []containerLink) {
	uplink := uplinkIndex()
	links, _ := netlink.LinkList()
	for _, l := range links {
		a := l.Attrs()
		isPair := l.Type() == "veth" && a.MasterIndex == 0
		if l.Type() != "bridge" && !isPair || a.Index == uplink || a.OperState == netlink.OperDown && isPair {
			continue
		}
		if len(list) == maxLinks {
			break
		}
		link := containerLink{name: a.Name}
		addrs, _ := netlink.AddrList(l, netlink.FAMILY_ALL)
		for _, address := range addrs {
			if ip, ok := netip.AddrFromSlice(address.IP); ok && !ip.IsLinkLocalUnicast() {
				bits, _ := address.Mask.Size()
				link.subnets = append(link.subnets, netip.PrefixFrom(ip.Unmap(), bits).Masked())
			}
		}
		list = append(list, link)
	}
	return list
}

// subnet is the first one of a family; the zero value if there is none.
func (l containerLink) subnet(v4 bool) netip.Prefix {
	for _, s := range l.subnets {
		if s.Addr().Is4() == v4 {
			return s
		}
	}
	return netip.Prefix{}
}

// uplinkIndex is the interface that leads to the metadata service, or away from the host; 0 if none does.
func uplinkIndex() int {
	for _, to := range []netip.Addr{imds.IPv4, netip.MustParseAddr("192.0.2.1")} { // TEST-NET-1: anywhere
		if routes, err := netlink.RouteGet(to.AsSlice()); err == nil && len(routes) > 0 {
			return routes[0].LinkIndex
		}
	}
	return 0
}
