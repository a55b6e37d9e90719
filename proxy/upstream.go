package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/report"
)

// Upstream says where IMDS is and how to reach it.
type Upstream struct {
	IPv4, IPv6 netip.AddrPort // calls go to the family that their caller asked for
	Timeout    time.Duration  // from the request to the head of its answer, token fetch included
	// Prepare is given a socket before it connects, to make the hook leave it alone.
	Prepare func(fd int) error
	// WatchHopLimit notes the hop limit of the answers on a socket. Optional.
	WatchHopLimit func(fd int) (func() (int, error), error)
}

// bodyTimeout bounds the wait for the rest of an answer whose head has come.
const bodyTimeout = 5 * time.Second

// upstream sends one request per connection to a fixed address: IMDS closes every connection,
// and what a general client does beyond that costs more than the request.
type upstream struct {
	Upstream
	makeRoom func() // called when no descriptor is left for a socket
}

// request is what goes upstream: the caller's, but for the token.
type request struct {
	method, target, proto, host string
	header                      http.Header
	body                        []byte
	token                       string // the bridge's; "" leaves the request as it came
	own                         bool   // the bridge's own, not a caller's
	watch                       bool   // note the answer's hop limit

	// meanwhile is called once, when IMDS has the request or is being connected to. Its error ends the call. Optional.
	meanwhile func() error
}

// hopLimit tells the hop limit that an answer was received with. What is not known counts as
// 1, the least that IMDS can be set to.
type hopLimit func() int

func (u *upstream) address(c *report.Call) netip.AddrPort {
	if a := c.Peer.Original.Addr().Unmap(); a.Is6() {
		return u.IPv6
	}
	return u.IPv4
}

// reach connects, and sends nothing: a call would be counted as one of IMDSv1.
func (u *upstream) reach(deadline time.Time) error {
	conn, err := dial(u.IPv4, deadline, func(fd int) error { return u.prepare(fd, &request{}, nil) })
	if err != nil {
		return err
	}
	defer conn.Close()
	return connected(conn)
}

// upstreamAnswer is an answer of IMDS, and how it came. Closing its body closes the connection.
type upstreamAnswer struct {
	*http.Response
	head     []byte // byte for byte, with the empty line
	hopLimit hopLimit
}

// roundTrip returns the answer as soon as its head is there, until deadline.
func (u *upstream) roundTrip(deadline time.Time, call *report.Call, r request) (_ upstreamAnswer, err error) {
	leg := report.Leg{
		Token: r.own, Start: time.Now(), Method: r.method,
		Address: u.address(call), Resends: call.Resends(r.own),
	}
	defer func() {
		leg.End = time.Now()
		if !errors.Is(err, errUnserved) && !errors.Is(err, errOtherwise) { // IMDS did nothing wrong then
			leg.Err = err
		}
		call.Legs = append(call.Legs, leg)
	}()
	a, err := u.exchange(leg.Address, deadline, r)
	if err != nil {
		return upstreamAnswer{}, fmt.Errorf("%s: %w", leg.Address, err)
	}
	leg.Status = a.StatusCode
	return a, nil
}

func (u *upstream) exchange(to netip.AddrPort, deadline time.Time, r request) (a upstreamAnswer, err error) {
	a.hopLimit = func() int { return 1 }
	conn, err := dial(to, deadline, func(fd int) error { return u.prepare(fd, &r, &a) })
	for errors.Is(err, unix.EMFILE) && time.Now().Before(deadline) {
		if r.meanwhile != nil {
			if err := r.meanwhile(); err != nil {
				return a, err
			}
			r.meanwhile = nil
		}
		u.makeRoom()
		conn, err = dial(to, deadline, func(fd int) error { return u.prepare(fd, &r, &a) })
	}
	if err != nil {
		return a, err
	}
	defer func() {
		if err != nil {
			conn.Close()
			a.hopLimit() // ends the watch
		}
	}()
	if err := r.send(conn); err != nil {
		return a, err
	}
	reader := readers.Get().(*bufio.Reader)
	reader.Reset(conn)
	a.head, a.Response, err = readAnswer(reader, r.method)
	if err != nil {
		readers.Put(reader)
		return a, err
	}
	a.Body = &upstreamBody{ReadCloser: a.Body, conn: conn, reader: reader}
	return a, conn.SetDeadline(time.Now().Add(bodyTimeout))
}

// readAnswer reads the head of the answer. Interim ones (RFC 9110 section 15.2) are no answer: the
// caller did not ask for them.
func readAnswer(reader *bufio.Reader, method string) (head []byte, resp *http.Response, err error) {
	for {
		if head, err = peekHead(reader); err != nil {
			return nil, nil, err
		}
		resp, err = http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil || resp.StatusCode >= 200 {
			return head, resp, err
		}
	}
}

// prepare readies a socket before it connects.
func (u *upstream) prepare(fd int, r *request, a *upstreamAnswer) error {
	if u.Prepare != nil {
		if err := u.Prepare(fd); err != nil {
			return err
		}
	}
	if !r.watch || u.WatchHopLimit == nil {
		return nil
	}
	read, err := u.WatchHopLimit(fd)
	if err != nil {
		return err
	}
	a.hopLimit = func() int {
		if hops, err := read(); err == nil && hops > 0 {
			return hops
		}
		return 1
	}
	return nil
}

// peekHead copies the head of an answer without taking it from the reader. One that does not
// fit into the reader's buffer is an error: those of IMDS have some 300 bytes.
func peekHead(reader *bufio.Reader) ([]byte, error) {
	for n := 1; ; n = reader.Buffered() + 1 {
		if _, err := reader.Peek(n); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		got, _ := reader.Peek(reader.Buffered())
		if end := bytes.Index(got, []byte("\r\n\r\n")); end >= 0 {
			return bytes.Clone(got[:end+4]), nil
		}
	}
}

var (
	buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4096) }}
)

// send writes the request at once.
func (r *request) send(conn *os.File) error {
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	r.write(buf)
	if r.meanwhile != nil {
		if err := r.sendSome(conn, buf); err != nil {
			return err
		}
	}
	if buf.Len() == 0 {
		return nil
	}
	_, err := conn.Write(buf.Bytes())
	return err
}

// sendSome writes what can be written without waiting, and uses the time that IMDS needs.
func (r *request) sendSome(conn *os.File, buf *bytes.Buffer) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var failed error
	if err := raw.Write(func(fd uintptr) bool {
		n, failed = unix.Write(int(fd), buf.Bytes())
		return true
	}); err != nil {
		return err
	}
	buf.Next(max(n, 0))
	if err := r.meanwhile(); err != nil {
		return err
	}
	if failed != nil && failed != unix.EAGAIN && failed != unix.EINTR {
		return os.NewSyscallError("write", failed)
	}
	return nil
}

// write puts the request into its wire form. It adds nothing but the token, and leaves out nothing
// but the context of a trace.
func (r *request) write(b *bytes.Buffer) {
	b.WriteString(r.method)
	b.WriteByte(' ')
	b.WriteString(r.target)
	b.WriteByte(' ')
	b.WriteString(r.proto)
	b.WriteString("\r\n")
	if r.host != "" {
		writeHeader(b, "Host", r.host)
	}
	for name, values := range r.header {
		switch name {
		case "Content-Length":
			continue // as counted, below
		case "Traceparent", "Tracestate", "Baggage":
			continue // of a trace that does not go on into IMDS
		}
		for _, v := range values {
			writeHeader(b, name, v)
		}
	}
	if r.token != "" {
		writeHeader(b, imds.HeaderToken, r.token)
	}
	if len(r.body) > 0 || len(r.header["Content-Length"]) > 0 {
		writeHeader(b, "Content-Length", strconv.Itoa(len(r.body)))
	}
	b.WriteString("\r\n")
	b.Write(r.body)
}

func writeHeader(b *bytes.Buffer, name, value string) {
	b.WriteString(name)
	b.WriteString(": ")
	b.WriteString(value)
	b.WriteString("\r\n")
}

// upstreamBody is the body of an answer, and the connection that it comes on.
type upstreamBody struct {
	io.ReadCloser
	conn   io.Closer
	reader *bufio.Reader
}

// Close ends the connection. It is idempotent.
func (b *upstreamBody) Close() error {
	if b.conn == nil {
		return nil
	}
	// Not ReadCloser.Close: it would read what is left.
	err := b.conn.Close()
	b.conn = nil
	b.reader.Reset(nil)
	readers.Put(b.reader)
	return err
}
