package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownLabel tells an IPv4 address that a bridge added to lo, so that one left behind by a
// crash is taken over, and one that the operator made is never removed.
const ownLabel = "lo:imds"

// Listener accepts redirected connections. Closing it takes away the address that it added.
type Listener struct {
	*net.TCPListener
	port  uint16
	added *netlink.Addr
	once  sync.Once
	err   error
}

// Listen accepts on a loopback or link-local address of the host. One that no interface has
// is added to lo, from where it serves the host and, by routing, its containers.
func Listen(ctx context.Context, at netip.AddrPort) (*Listener, error) {
	added, err := addAddress(at.Addr())
	if err != nil {
		return nil, err
	}
	// Keep-alive probes cost four system calls a connection, and IMDS closes each after one answer.
	config := net.ListenConfig{KeepAlive: -1}
	// Multipath TCP, Go's default for listeners, is of no use on a loopback path.
	config.SetMultipathTCP(false)
	l, err := config.Listen(ctx, "tcp", at.String())
	if err != nil {
		return nil, errors.Join(listenError(at, err), removeAddress(added, 0))
	}
	if err := refuseFastOpen(l); err != nil {
		return nil, errors.Join(err, l.Close(), removeAddress(added, 0))
	}
	return &Listener{TCPListener: l.(*net.TCPListener), port: at.Port(), added: added}, nil
}

// refuseFastOpen keeps accept from returning a connection before the caller's end is established,
// and so recorded: the host may have TCP Fast Open switched on for all listeners.
func refuseFastOpen(l net.Listener) error {
	c, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := c.Control(func(fd uintptr) {
		// After listen(2), which sets it by net.ipv4.tcp_fastopen.
		inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 0)
	}); err != nil {
		return err
	}
	if inner != nil {
		return fmt.Errorf("switch off TCP Fast Open: %w", inner)
	}
	return nil
}

// HasIPv6 tells whether lo can have IPv6 addresses in this network namespace.
func HasIPv6() bool {
	disabled, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
	return err == nil && strings.TrimSpace(string(disabled)) == "0"
}

func listenError(at netip.AddrPort, err error) error {
	setting := "redirect.listen"
	if at.Addr().Is6() {
		setting = "redirect.listen6"
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("listen on %s: another process has the address (another imds-bridge? see ss -ltnp; or set %s): %w", at, setting, err)
	}
	return fmt.Errorf("listen on %s: %w", at, err)
}

// Close stops listening, then removes the address if Listen added it. It is idempotent, and no
// error after a Close of the embedded listener, which leaves the address to accepted connections.
func (l *Listener) Close() error {
	l.once.Do(func() {
		err := l.TCPListener.Close()
		if errors.Is(err, net.ErrClosed) {
			err = nil
		}
		l.err = errors.Join(err, removeAddress(l.added, l.port))
	})
	return l.err
}

// addAddress adds a to lo. It returns nil when an interface had it and it is not ours.
func addAddress(a netip.Addr) (*netlink.Addr, error) {
	if a.IsLoopback() {
		return nil, nil
	}
	own := newAddress(a)
	present, err := findAddress(a)
	if err != nil {
		return nil, err
	}
	if present != nil {
		if isOwn(present) {
			return own, nil
		}
		return nil, nil
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.AddrAdd(lo, own); err != nil {
		return nil, fmt.Errorf("add %s to lo (needs CAP_NET_ADMIN): %w", a, err)
	}
	if err := awaitRoute(a); err != nil {
		return nil, errors.Join(err, removeAddress(own, 0))
	}
	return own, nil
}

// awaitRoute waits until a is reachable. The kernel adds the route to an IPv6 address on a work
// queue, after the call that adds the address has returned (net/ipv6/addrconf.c): as a rule within
// a millisecond, later where many network namespaces come and go.
func awaitRoute(a netip.Addr) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		routes, err := netlink.RouteGet(a.AsSlice())
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s was added to lo and does not become reachable", a)
		}
	}
}

func newAddress(a netip.Addr) *netlink.Addr {
	own := &netlink.Addr{
		IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
		// Never chosen as the source of a connection that leaves the host.
		Scope: unix.RT_SCOPE_HOST,
	}
	if a.Is4() {
		own.Label = ownLabel
	} else {
		// No duplicate detection on lo; deprecated, so never chosen as a source either.
		// IPv6 addresses have no label: this is the sign that it is ours.
		own.Flags = unix.IFA_F_NODAD
		own.ValidLft = forever
		own.PreferedLft = 0
	}
	return own
}

// forever is the kernel's INFINITY_LIFE_TIME as netlink.Addr takes it.
const forever = 0xffffffff

func isOwn(a *netlink.Addr) bool {
	if a.IP.To4() != nil {
		return a.Label == ownLabel
	}
	return a.Flags&unix.IFA_F_DEPRECATED != 0
}

// findAddress returns a as an interface has it, nil when none has.
func findAddress(a netip.Addr) (*netlink.Addr, error) {
	all, err := listAddresses()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for i := range all {
		if ip, ok := netip.AddrFromSlice(all[i].IP); ok && ip.Unmap() == a {
			return &all[i], nil
		}
	}
	return nil, nil
}

// listAddresses asks again when addresses changed while the kernel told them.
func listAddresses() (all []netlink.Addr, err error) {
	for range 10 {
		all, err = netlink.AddrList(nil, netlink.FAMILY_ALL)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// Leftover is what became of an address that a bridge may have left on lo.
type Leftover string

const (
	LeftoverRemoved Leftover = "removed from lo"
	LeftoverInUse   Leftover = "kept: somebody listens there"
	LeftoverForeign Leftover = "kept: no bridge added it"
	LeftoverNone    Leftover = "nothing to remove"
)

// RemoveLeftover removes an address that a bridge added to lo and did not live to remove. It leaves
// one alone that the operator made, or on which somebody listens.
func RemoveLeftover(at netip.AddrPort) (Leftover, error) {
	present, err := findAddress(at.Addr())
	switch {
	case err != nil:
		return "", err
	case present == nil:
		return LeftoverNone, nil
	case !isOwn(present):
		return LeftoverForeign, nil
	}
	if used, err := hasListener(present.IP, 0); err != nil {
		return "", err
	} else if used {
		return LeftoverInUse, nil
	}
	if err := removeAddress(newAddress(at.Addr()), 0); err != nil {
		return "", fmt.Errorf("%w (needs CAP_NET_ADMIN)", err)
	}
	return LeftoverRemoved, nil
}

// removeAddress leaves an address where another bridge listens, on another port than ours: one that
// was here first, or one that takes over.
func removeAddress(own *netlink.Addr, ours uint16) error {
	if own == nil {
		return nil
	}
	if used, err := hasListener(own.IP, ours); used || err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	err = netlink.AddrDel(lo, own)
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove %s from lo: %w", own.IP, err)
	}
	return nil
}

// HasListener tells whether somebody listens at an address and port.
func HasListener(at netip.AddrPort) (bool, error) {
	return anyListener(at.Addr().AsSlice(), func(port uint16) bool { return port == at.Port() })
}

// hasListener tells whether somebody listens at an address, on another port than one.
func hasListener(ip net.IP, besides uint16) (bool, error) {
	return anyListener(ip, func(port uint16) bool { return port != besides })
}

func anyListener(ip net.IP, on func(port uint16) bool) (bool, error) {
	family := uint8(unix.AF_INET)
	if ip.To4() == nil {
		family = unix.AF_INET6
	}
	sockets, err := netlink.SocketDiagTCP(family)
	if err != nil {
		return false, fmt.Errorf("list listeners: %w", err)
	}
	return slices.ContainsFunc(sockets, func(s *netlink.Socket) bool {
		return s.State == netlink.TCP_LISTEN && s.ID.Source.Equal(ip) && on(s.ID.SourcePort)
	}), nil
}
