//go:build root

package iptables

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/imds-bridge/imds-bridge/lab"
)

// sets are the names of all ipsets of a namespace.
func sets(t testing.TB, n *lab.Namespace) (names []string) {
	t.Helper()
	if err := n.Do(func() error {
		all, err := netlink.IpsetListAll()
		for _, s := range all {
			names = append(names, s.SetName)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

func expectNoSets(t testing.TB, n *lab.Namespace) {
	t.Helper()
	if names := sets(t, n); len(names) > 0 {
		t.Errorf("ipsets are left: %v", names)
	}
}

func addDefaultRoute(name string, via netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: via.AsSlice()})
}
