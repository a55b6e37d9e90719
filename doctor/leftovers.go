package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/imds-bridge/imds-bridge/redirect/hook"
)

// ownLabel is the label of the addresses that a bridge adds to lo.
const ownLabel = "lo:imds"

// checkLeftovers looks for what a bridge left that died; rules are in the findings on firewall.
func checkLeftovers(_ context.Context, h *host) (findings []Finding) {
	if len(h.bridges()) > 0 {
		return nil // it is that one's
	}
	if c, err := h.cgroup(); err == nil {
		findings = append(findings, lookForPins(c.Path)...)
	}
	for _, a := range leftAddresses() {
		findings = append(findings, Finding{
			Status: OK, Found: fmt.Sprintf("%s on lo, added by a bridge that does not run", a),
			Means: "it harms nobody, and the next start takes it over", Remedy: "imds-bridge cleanup removes it",
		})
	}
	if len(findings) == 0 {
		findings = append(findings, Finding{Status: OK, Found: "nothing"})
	}
	return findings
}

func lookForPins(cgroup string) []Finding {
	dir, err := hook.PinsOf(cgroup)
	if err != nil {
		return nil
	}
	if pins, _ := os.ReadDir(dir); len(pins) == 0 {
		return nil
	}
	return []Finding{judgePins(dir)}
}

func judgePins(dir string) Finding {
	return Finding{
		Status: Limit, Found: "the hook of a bridge that does not run is pinned in " + dir,
		Means:  "calls to the metadata service are refused until a bridge is back (fail: closed)",
		Remedy: "start the bridge, or imds-bridge cleanup",
	}
}

func leftAddresses() (list []netip.Addr) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil
	}
	all, _ := netlink.AddrList(lo, netlink.FAMILY_V4)
	for _, a := range all {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && a.Label == ownLabel {
			list = append(list, ip.Unmap())
		}
	}
	return list
}
