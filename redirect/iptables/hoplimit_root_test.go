//go:build root

package iptables

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

// far listens in the place of IMDS, and answers with a hop limit.
func far(t *testing.T, l *lab.Lab, at netip.AddrPort, hops int) {
	t.Helper()
	listener, err := l.IMDS().Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			raw, err := c.(*net.TCPConn).SyscallConn()
			if err == nil {
				err = raw.Control(func(fd uintptr) {
					if at.Addr().Is6() {
						_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops)
					} else {
						_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, hops)
					}
				})
			}
			if err == nil {
				_, err = io.WriteString(c, "answer")
			}
			if err != nil {
				t.Error(err)
			}
			c.Close()
		}
	}()
}

func TestAnswerThatWouldNotSurviveAHopDoesNotCome(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	port := uint16(8000)
	for _, addr := range []netip.Addr{imds4.Addr(), imds6.Addr()} {
		for hops, comes := range map[int]bool{1: false, 2: true, 64: true} {
			port++
			at := netip.AddrPortFrom(addr, port)
			t.Run(fmt.Sprintf("%s with %d", addr, hops), func(t *testing.T) {
				far(t, l, at, hops)
				heard, told, err := hearFar(l, at)
				if comes && (heard != "answer" || told != survivingHops || err != nil) {
					t.Errorf("heard %q with %d hops, %v", heard, told, err)
				}
				if !comes && (heard != "" || !errors.Is(err, os.ErrDeadlineExceeded)) {
					t.Errorf("heard %q, %v", heard, err)
				}
			})
		}
	}
}

// hearFar calls a far service as the bridge calls IMDS for a container.
func hearFar(l *lab.Lab, at netip.AddrPort) (heard string, hops int, err error) {
	var r Redirector
	var told func() (int, error)
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { told, err = r.WatchHopLimit(int(fd)) })
		return err
	}}
	d.SetMultipathTCP(false)
	var c net.Conn
	if err := l.Host().Do(func() (err error) {
		c, err = d.DialContext(context.Background(), "tcp", at.String())
		return err
	}); err != nil {
		return "", 0, err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		return "", 0, err
	}
	text, err := io.ReadAll(c)
	if err != nil {
		return string(text), 0, err
	}
	hops, err = told()
	return string(text), hops, err
}
