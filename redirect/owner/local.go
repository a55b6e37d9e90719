package owner

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// IsOwn tells whether an address is of this network namespace. What comes with such a source was sent
// here: the kernel drops it as a martian when it arrives from elsewhere (fib_validate_source).
func IsOwn(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	routes, err := netlink.RouteGet(a.Unmap().AsSlice())
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}
