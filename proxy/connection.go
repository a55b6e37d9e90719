package proxy

import (
	"container/list"
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
	peer             caller.Peer
	rest             func() (caller.Peer, error) // waits for the whole peer, while it is but likely; else nil
	busy             atomic.Bool                 // a request is under way
	slots            *slots
	slot             *list.Element // nil without one
	process          process       // whom the slot counts for
	group            group
	probe            bool // the bridge's own call to itself
	limited          bool // a hop limit is set on the socket

	once   sync.Once
	caller *caller.Caller
}

// admit finds out who connects. It returns nil for a connection that is not served, and ends it.
func (p *Proxy) admit(raw net.Conn) *connection {
	c := &connection{
		Conn:     raw,
		client:   addrPort(raw.RemoteAddr()),
		listener: addrPort(raw.LocalAddr()),
		slots:    p.slots,
	}
	known := p.probes.has(c.client)
	peer, rest, err := p.lookup(raw)
	// A probe dials the listener. What was redirected is somebody's call, should it have such a port by now.
	if c.probe = known && err != nil; c.probe {
		peer, err = ownPeer(), nil
	}
	if err != nil {
		p.misdirect(c, err)
		return nil
	}
	c.peer, c.rest = peer, rest
	if rest != nil && isReadable(raw) && p.slots.reserve(c) {
		return c // its call is there, and can be on its way before it is known whose it is
	}
	if !p.seat(c) {
		return nil
	}
	return c
}

// seat waits until it is known who connects, and gives the connection a slot of his share. It returns false for one that is not
// served, and ends it.
func (p *Proxy) seat(c *connection) bool {
	if c.rest != nil {
		peer, err := c.rest()
		c.rest = nil
		if err != nil {
			p.misdirect(c, err)
			return false
		}
		c.peer = peer
	}
	if !p.slots.take(c) {
		p.metrics.turnedAway()
		turnAway(c.Conn, busyAnswer)
		return false
	}
	return true
}

func (p *Proxy) misdirect(c *connection, cause error) {
	p.metrics.missed()
	p.reporter.Connection(misdirected(c, cause))
	turnAway(c.Conn, misdirectedAnswer)
}

// turnAway answers a connection and ends it. What the caller has sent already is taken first: a
// close with unread data is a reset, which can overtake the answer.
func turnAway(c net.Conn, answer []byte) {
	_, _ = c.Write(answer) // the close that follows says the same
	discard(c)
	_ = c.Close()
}

// discard takes what lies unread on a connection, without waiting for more.
func discard(c net.Conn) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		var b [4096]byte
		for range 16 {
			if n, err := unix.Read(int(fd), b[:]); n <= 0 || err != nil {
				break
			}
		}
		return true
	})
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
	c.slots.release(c)
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
