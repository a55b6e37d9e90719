package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/caller"
)

// probes are the endpoints from which the bridge calls itself. They are bound before they are noted,
// so nobody else in the namespace can have them.
type probes struct{ from sync.Map } // netip.AddrPort -> nothing

// abandoned is how long a probe is known that nobody waits for any longer.
const abandoned = time.Minute

func (p *probes) has(client netip.AddrPort) bool {
	_, ok := p.from.Load(client)
	return ok
}

// Probe calls the proxy at one of its listeners, until ctx ends. The call is accepted, looked up,
// given a slot, parsed and answered as any other is, and neither forwarded nor reported: nil says
// that the proxy does its work.
func (p *Proxy) Probe(ctx context.Context, listener netip.AddrPort) (err error) {
	var from netip.AddrPort
	defer func() {
		if err == nil {
			p.probes.from.Delete(from)
			return
		}
		// A proxy that comes back still finds the call in its backlog.
		time.AfterFunc(abandoned, func() { p.probes.from.Delete(from) })
	}()
	dialer := net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) { from, inner = bind(int(fd), listener.Addr()) })
		if err == nil && inner == nil {
			p.probes.from.Store(from, nil)
		}
		return errors.Join(err, inner)
	}}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp", listener.String())
	if err != nil {
		return fmt.Errorf("probe the proxy: %w", err)
	}
	defer conn.Close()
	giveUp := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer giveUp()
	if _, err := io.WriteString(conn, "HEAD / HTTP/1.0\r\n\r\n"); err != nil {
		return fmt.Errorf("probe the proxy: %w", err)
	}
	answer, err := http.ReadResponse(bufio.NewReaderSize(conn, 256), &http.Request{Method: http.MethodHead})
	if err != nil {
		return fmt.Errorf("probe the proxy: %w", err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		return fmt.Errorf("probe the proxy: it answers %s", answer.Status)
	}
	return nil
}

// bind gives a socket a port of its own on the address.
func bind(fd int, on netip.Addr) (netip.AddrPort, error) {
	var to unix.Sockaddr = &unix.SockaddrInet4{}
	if on.Is4() {
		to.(*unix.SockaddrInet4).Addr = on.As4()
	} else {
		to = &unix.SockaddrInet6{Addr: on.As16()}
	}
	if err := unix.Bind(fd, to); err != nil {
		return netip.AddrPort{}, fmt.Errorf("bind to %s: %w", on, err)
	}
	bound, err := unix.Getsockname(fd)
	switch a := bound.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(on, uint16(a.Port)), err
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(on, uint16(a.Port)), err
	}
	return netip.AddrPort{}, err
}

// ownPeer is who probes: the bridge, with a share of slots like everybody.
func ownPeer() caller.Peer {
	return caller.Peer{Origin: caller.Origin{PID: uint32(os.Getpid())}, OwnNetNS: true}
}

// answerProbe goes where a call under way could be stuck, and answers.
func (p *Proxy) answerProbe(w *answerWriter) {
	p.tokens.pass()
	w.writeLocal(local(http.StatusNoContent, ""))
}
