package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/owner"
)

// Lookup says whose connection a listener accepted. It returns [redirect.ErrNoRecord] for one that the
// rules did not redirect from IMDS.
//
// A caller that is not found is served, with PID 0: what the kernel translated was sent to IMDS, by this
// host or one of its containers, so that refusing it would take away what there is without the bridge. It is
// Ambiguous, and gets no more than that, unless it is certain that it is of our own network namespace.
func (r *Redirector) Lookup(accepted net.Conn) (redirect.Connection, error) {
	found, rest, err := r.Begin(accepted)
	if rest != nil {
		found = rest()
	}
	return found, err
}

// Begin begins a Lookup. What it returns is likely, of where the caller is alone, for as long as rest does not say more. rest is
// called once. It is nil where all is known.
func (r *Redirector) Begin(accepted net.Conn) (likely redirect.Connection, rest func() redirect.Connection, err error) {
	c, original, err := r.redirected(accepted)
	if err != nil {
		return redirect.Connection{}, nil, err
	}
	own, found, ok := r.owners.Begin(clientOf(c), original)
	if !ok {
		who, err := r.owners.Find(context.Background(), clientOf(c), original)
		return r.judge(c, original, who, err), nil, nil
	}
	return redirect.Connection{OwnNetNS: own, Original: original}, func() redirect.Connection {
		who, err := found()
		return r.judge(c, original, who, err)
	}, nil
}

// redirected returns what a connection was for, if that is IMDS.
func (r *Redirector) redirected(accepted net.Conn) (c *net.TCPConn, original netip.AddrPort, err error) {
	c, ok := accepted.(*net.TCPConn)
	if !ok {
		return nil, original, fmt.Errorf("look up %T: not a TCP connection", accepted)
	}
	original, err = originalOf(c)
	if err != nil || original != imds4 && original != imds6 {
		r.counts.add(outcomeDirect)
		return nil, original, fmt.Errorf("%s to %s: %w", c.RemoteAddr(), c.LocalAddr(), redirect.ErrNoRecord)
	}
	r.counts.add(outcomeRedirected)
	return c, original, nil
}

func clientOf(c *net.TCPConn) netip.AddrPort { return c.RemoteAddr().(*net.TCPAddr).AddrPort() }

// judge counts what was found, and says what is certain of who was not.
func (r *Redirector) judge(c *net.TCPConn, original netip.AddrPort, found redirect.Connection, err error) redirect.Connection {
	switch {
	case err != nil:
		r.counts.add(outcomeOf(err))
		found.Original = original
		found.OwnNetNS = found.OwnNetNS || arrivedOnLoopback(c) || owner.IsOwn(clientOf(c).Addr())
		found.Ambiguous = !found.OwnNetNS
	case found.Ambiguous:
		r.counts.add(outcomeAmbiguous)
	default:
		r.counts.add(outcomeJoined)
	}
	return found
}

// arrivedOnLoopback tells whether a connection came to a listener on loopback, which can be reached from its
// own network namespace alone.
func arrivedOnLoopback(c net.Conn) bool {
	return c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().IsLoopback()
}

func outcomeOf(err error) outcome {
	if lacking := (*owner.PermissionError)(nil); errors.As(err, &lacking) {
		return outcomeNotPermitted
	}
	return outcomeNotJoined
}

// soOriginalDst is SO_ORIGINAL_DST of linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST.
const soOriginalDst = 80

// originalOf asks the kernel where a connection was for, before its destination was translated.
func originalOf(c *net.TCPConn) (original netip.AddrPort, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return original, err
	}
	level := unix.SOL_IP
	if c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().Is6() {
		level = unix.SOL_IPV6
	}
	var address unix.RawSockaddrInet6 // the larger of the two
	size := uint32(unsafe.Sizeof(address))
	var errno unix.Errno
	if err := raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, uintptr(level), soOriginalDst,
			uintptr(unsafe.Pointer(&address)), uintptr(unsafe.Pointer(&size)), 0)
	}); err != nil {
		return original, err
	}
	if errno != 0 {
		return original, fmt.Errorf("read the original destination: %w", errno)
	}
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&address.Port))[:])
	if level == unix.SOL_IPV6 {
		return netip.AddrPortFrom(netip.AddrFrom16(address.Addr), port), nil
	}
	v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&address))
	return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), port), nil
}
