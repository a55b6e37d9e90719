package simulator

import (
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// hopLimit sets the IP TTL, in IPv6 the hop limit, of what a connection sends. As in the service it is
// the answer to PUT alone that gets a small one: the handshake and all other answers travel freely, so
// that a client too far away connects, sends its PUT and waits for nothing (EC2 User Guide).
//
// The limit stays on the socket until the next answer, for retransmissions and the end of the
// connection. With Behaviour.KeepAlive a lost answer to PUT is therefore sent again without it once
// the client has asked for more.
type hopLimit struct {
	conn    net.Conn
	limited bool
}

// kernelDefault gives a socket the default of its network namespace.
const kernelDefault = -1

// set prepares the socket for the next answer: limited to hops for a PUT, the default for all others.
func (h *hopLimit) set(put bool, hops int) error {
	tcp, ok := h.conn.(*net.TCPConn)
	if !ok || !put && !h.limited {
		return nil
	}
	if !put {
		hops = kernelDefault
	}
	h.limited = put
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	// An IPv4 client of a dual-stack listener is on an IPv6 socket, whose packets have an IPv4 TTL.
	level, option := unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	if address, ok := tcp.RemoteAddr().(*net.TCPAddr); ok && address.IP.To4() != nil {
		level, option = unix.IPPROTO_IP, unix.IP_TTL
	}
	var failure error
	if err := raw.Control(func(fd uintptr) {
		failure = syscall.SetsockoptInt(int(fd), level, option, hops)
	}); err != nil {
		return err
	}
	if failure != nil {
		return fmt.Errorf("set hop limit %d: %w", hops, failure)
	}
	return nil
}
