package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// selfCheckPatience bounds the self-check: on a host that works it takes a millisecond.
const selfCheckPatience = 2 * time.Second

// selfCheck proves the hook: a connection of our own to IMDS must arrive at our own listener,
// with the kernel's record of who made it.
type selfCheck struct {
	socket  atomic.Uint64 // cookie of the socket that checks
	arrived chan redirect.Connection
}

func newSelfCheck() *selfCheck {
	return &selfCheck{arrived: make(chan redirect.Connection, 1)}
}

// saw is told of every connection that the listener accepted with a record.
func (s *selfCheck) saw(c redirect.Connection) {
	if s.socket.Load() == c.Socket {
		select {
		case s.arrived <- c:
		default:
		}
	}
}

// run makes the connection. Nothing is sent on it: should it reach IMDS after all, no harm is done.
func (s *selfCheck) run(ctx context.Context, imds netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, selfCheckPatience)
	defer cancel()
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		controlErr := c.Control(func(fd uintptr) {
			var cookie uint64
			cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
			s.socket.Store(cookie)
		})
		return errors.Join(controlErr, err)
	}}
	c, err := dialer.DialContext(ctx, "tcp", imds.String())
	if err != nil {
		return fmt.Errorf("self-check: a connection to %s did not reach the bridge (a firewall rule for the listener's address? the bridge outside redirect.cgroup?): %w", imds, err)
	}
	defer c.Close()
	select {
	case <-s.arrived:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("self-check: a connection to %s went past the bridge (is the bridge itself outside redirect.cgroup?)", imds)
	}
}
