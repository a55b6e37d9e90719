package proxy

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/caller"
)

// connection is one accepted connection, and who made it.
type connection struct {
	net.Conn
	client, listener netip.AddrPort
	peer             Peer
	known            bool // peer is filled in
	busy             atomic.Bool
	release          func()
	limited          bool // a hop limit is set on the socket

	once   sync.Once
	caller *caller.Caller
}

// admit finds out who connects. It returns nil for a connection that finds no slot, and ends it.
func (p *Proxy) admit(raw net.Conn) *connection {
	c := &connection{
		Conn:     raw,
		client:   addrPort(raw.RemoteAddr()),
		listener: addrPort(raw.LocalAddr()),
	}
	peer, err := p.lookup(c.client, c.listener)
	if err == nil {
		c.peer, c.known = peer, true
	} else {
		p.metrics.missed()
	}
	if !p.slots.take(c) {
		p.metrics.turnedAway()
		_, _ = raw.Write(busyAnswer) // the close that follows says the same
		_ = raw.Close()
		return nil
	}
	return c
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Close gives the slot back.
func (c *connection) Close() error {
	c.release()
	return c.Conn.Close()
}

// name reads who the caller is, once per connection: a program that execs connects anew.
func (c *connection) name(read func(caller.Origin) *caller.Caller) *caller.Caller {
	c.once.Do(func() { c.caller = read(c.peer.Origin) })
	return c.caller
}

// limitHops lets what is sent from now on travel no further than hops routers; 0 lifts it.
func (c *connection) limitHops(hops int) error {
	if hops == 0 && !c.limited {
		return nil
	}
	c.limited = hops != 0
	if hops == 0 {
		hops = -1 // the system's default
	}
	raw, err := c.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		if c.listener.Addr().Is4() {
			inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, hops)
		} else {
			inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops)
		}
	})
	if err != nil {
		return err
	}
	return inner
}

// hold keeps the caller waiting for an answer until it gives up, or for so long. What waits in
// vain may be ended at any time.
func (c *connection) hold(patience time.Duration) {
	c.busy.Store(false)
	c.SetReadDeadline(time.Now().Add(patience))
	var b [64]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return
		}
	}
}
