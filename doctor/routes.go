package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/imds"
)

// imdsdMark is the mark by which systemd-imdsd goes past the route that it prohibits to others
// (network mode "locked", the default since systemd 261; src/imds/imdsd.c).
const imdsdMark = 0x7fff0815

// blockers are the kinds of routes that lead nowhere.
var blockers = map[int]string{
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit",
}

func checkRoutes(_ context.Context, h *host) []Finding {
	findings := []Finding{h.judgeWay(imds.IPv4)}
	// Most hosts have no way to the IPv6 endpoint, which is nothing to tell; a route that blocks it is.
	if h.options.Listen6.IsValid() && findBlocker(imds.IPv6) != "" {
		f := h.judgeWay(imds.IPv6)
		f.Status, f.Means = Limit, "the bridge cannot forward calls to the IPv6 endpoint"
		findings = append(findings, f)
	}
	return findings
}

// way is where the kernel would send a packet to the metadata service.
type way struct {
	to      netip.Addr
	link    string
	err     error
	blocker string // the kind of route that leads nowhere
	imdsd   bool   // it is systemd-imdsd's
}

func (h *host) judgeWay(to netip.Addr) Finding {
	w := way{to: to}
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{Mark: h.options.Mark})
	if w.err = err; err == nil && len(routes) > 0 {
		if l, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil {
			w.link = l.Attrs().Name
		}
		w.blocker = blockers[routes[0].Type]
	} else {
		w.blocker = findBlocker(to)
	}
	if w.blocker == "prohibit" {
		w.imdsd = hasRule(imdsdMark)
	}
	return w.judge()
}

// findBlocker looks for the route that keeps an address from being reached.
func findBlocker(to netip.Addr) string {
	family := netlink.FAMILY_V4
	if to.Is6() {
		family = netlink.FAMILY_V6
	}
	routes, _ := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	best, kind := 0, ""
	for _, r := range routes {
		// A default route that leads nowhere says nothing of the metadata service.
		if prefix, ok := prefixOf(r.Dst); ok && prefix.Contains(to) && prefix.Bits() > best && blockers[r.Type] != "" {
			best, kind = prefix.Bits(), blockers[r.Type]
		}
	}
	return kind
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

func hasRule(mark uint32) bool {
	rules, _ := netlink.RuleList(netlink.FAMILY_ALL)
	for _, r := range rules {
		if r.Mark == mark {
			return true
		}
	}
	return false
}

func (w way) judge() Finding {
	switch {
	case w.imdsd:
		return Finding{
			Status: Fail, Found: fmt.Sprintf("a prohibit route for %s, and a rule for the mark %#x: systemd-imdsd's", w.to, imdsdMark),
			Means:  "nobody but systemd-imdsd reaches the metadata service, the bridge included",
			Remedy: "boot with systemd.imds.network=unlocked",
		}
	case w.blocker != "":
		return Finding{
			Status: Fail, Found: fmt.Sprintf("a %s route for %s", w.blocker, w.to),
			Means:  "the host, and so the bridge, does not reach the metadata service",
			Remedy: fmt.Sprintf("ip route del %s %s; look for what made it (ip route show table all type %s)", w.blocker, w.to, w.blocker),
		}
	case errors.Is(w.err, unix.ENETUNREACH):
		return Finding{
			Status: Fail, Found: fmt.Sprintf("no route to %s", w.to), Means: "the host, and so the bridge, does not reach the metadata service",
			Remedy: "is this an EC2 instance whose network is up?",
		}
	case w.err != nil:
		return Finding{Status: Fail, Found: fmt.Sprintf("no way to %s: %s", w.to, w.err), Means: "the host, and so the bridge, does not reach the metadata service"}
	default:
		return Finding{Status: OK, Found: fmt.Sprintf("%s is reached by %s", w.to, w.link)}
	}
}
