package doctor

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// probePatience is for one request to the metadata service.
const probePatience = time.Second

// harmless is what a probe asks for, by both versions.
const harmless = "/latest/meta-data/instance-id"

// probe is what the metadata service answered. A status is 0 where no answer came, with err saying why.
type probe struct {
	marked    bool // it did not go through a bridge
	connected bool
	token     int // status of the token request
	data      int // of a GET with the token
	v1        int // of a GET without; 0 if it was not asked, too
	err       error
	hopLimit  uint32
	hopErr    error
}

// ask makes a token request, whose token lives for a second, and a call with it. With v1 it makes one
// without, too.
func (h *host) ask(ctx context.Context, to netip.AddrPort, v1 bool) (p probe) {
	filter, err := newHopLimitFilter(to.Addr().Is6())
	if p.hopErr = err; err == nil {
		defer filter.close()
	}
	c := call{host: h, to: to, filter: filter}
	var token string
	p.token, token, p.err = c.do(ctx, "PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 1")
	p.connected, p.marked = c.connected, c.marked
	if filter != nil && p.err == nil {
		p.hopLimit, p.hopErr = filter.hopLimit()
	}
	c.filter = nil
	if p.token == http.StatusOK {
		p.data, _, p.err = c.do(ctx, "GET", harmless, "X-aws-ec2-metadata-token: "+token)
	}
	if v1 && c.connected {
		p.v1, _, _ = c.do(ctx, "GET", harmless)
	}
	return p
}

// call makes requests, each on a connection of its own.
type call struct {
	host              *host
	to                netip.AddrPort
	filter            *hopLimitFilter // nil for none
	connected, marked bool
}

// do returns the status of an answer, and its first bytes.
func (c *call) do(ctx context.Context, method, path string, headers ...string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	dialer := net.Dialer{Control: c.mark}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp", c.to.String())
	if err != nil {
		return 0, "", plain(err)
	}
	defer conn.Close()
	c.connected = true
	deadline, _ := ctx.Deadline()
	if err := errors.Join(conn.SetDeadline(deadline), c.watch(conn)); err != nil {
		return 0, "", err
	}
	host := c.to.Addr().String()
	if c.to.Addr().Is6() {
		host = "[" + host + "]"
	}
	lines := append([]string{method + " " + path + " HTTP/1.1", "Host: " + host, "User-Agent: imds-bridge-doctor"}, headers...)
	if method == "PUT" {
		lines = append(lines, "Content-Length: 0")
	}
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		return 0, "", plain(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", plain(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1024))
	return answer.StatusCode, string(text), plain(err)
}

// mark lets the socket go past a bridge that runs, if it may be marked.
func (c *call) mark(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) { c.marked = redirect.Exempt(int(fd), c.host.options.Mark) == nil })
}

func (c *call) watch(conn net.Conn) (err error) {
	if c.filter == nil {
		return nil
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = c.filter.attach(int(fd)) })
	return errors.Join(err, inner)
}

// plain is an error without the addresses that the finding names anyway.
func plain(err error) error {
	var errno unix.Errno
	var timeout net.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &errno):
		return errno
	case errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("no answer in time")
	default:
		return err
	}
}
