package iptables

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// ErrOutside is returned for calls of other machines.
var ErrOutside = errors.New("it may be of another machine, which has no claim on this one's metadata")

// CheckOrigin returns [ErrOutside] for a connection that other machines can have made. found is what
// [Redirector.Lookup] knows of it. Whoever has the network namespace of the caller in sight has its proof;
// else the way of the answer decides: it must lead to a container of this host, by a pair of links, or by
// a bridge to a port that is one. So a container that may not be looked into is served, and a machine behind
// a tunnel is not, which without the bridge had to be let through by this host's forwarding.
func (r *Redirector) CheckOrigin(accepted net.Conn, found redirect.Connection) error {
	if found.PID != 0 || found.NetNS != 0 || found.OwnNetNS {
		return nil
	}
	by, ok, err := r.leadsToContainer(accepted.RemoteAddr().(*net.TCPAddr))
	if err == nil && ok {
		return nil
	}
	r.counts.add(outcomeOutside)
	if err != nil {
		return fmt.Errorf("find the way to %s, whom nobody knows here: %w: %w", accepted.RemoteAddr(), ErrOutside, err)
	}
	return fmt.Errorf("%s, whom nobody knows here, calls by %s (%s): %w", accepted.RemoteAddr(), by.name, by.kind, ErrOutside)
}

// leadsToContainer finds the link by which an answer leaves. The handshake of TCP has proven that who called is
// there: whoever borrows an address does not get what is sent to it.
func (r *Redirector) leadsToContainer(client *net.TCPAddr) (by link, ok bool, err error) {
	routes, err := netlink.RouteGetWithOptions(client.IP, &netlink.RouteGetOptions{Oif: client.Zone})
	if err != nil {
		return link{}, false, err
	}
	ls, err := r.links.since(time.Now())
	if err != nil || len(routes) == 0 {
		return link{}, false, err
	}
	hop := client.IP
	if len(routes[0].Gw) > 0 {
		hop = routes[0].Gw
	}
	address, _ := netip.AddrFromSlice(hop)
	ok, err = ls.leadsToContainer(routes[0].LinkIndex, address.Unmap())
	return ls[routes[0].LinkIndex], ok, err
}
