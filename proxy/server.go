package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/sys/unix"
)

// server reads requests off connections and writes answers. net/http's would do both, but it
// writes a status line and header lines of its own making, and it keeps a second goroutine for
// each connection and throws both away after the one request that IMDS allows. Requests are still
// parsed by net/http.
type server struct {
	limits Limits
	slots  *slots
	admit  func(net.Conn) *connection // nil for one that is not served, and is ended
	seat   func(*connection) bool     // of one whose caller was not known; false is likewise
	handle func(*answerWriter, *http.Request)
	report func(c *connection, status int, cause error) // of what was no request
	logger *slog.Logger

	mu        sync.Mutex
	listeners map[net.Listener]bool
	closing   bool
	paused    chan struct{}  // closed at its end; nil while connections are accepted
	accepting sync.WaitGroup // loops that accept
	serving   sync.WaitGroup // connections

	// idle leads to goroutines that have served before: their stacks have grown.
	idle chan net.Conn
	quit chan struct{} // closed at shutdown
}

// workerPatience is how long a goroutine waits for another connection.
const workerPatience = 2 * time.Second

func newServer(p *Proxy, logger *slog.Logger) *server {
	return &server{
		limits: p.limits, slots: p.slots, logger: logger, admit: p.admit, seat: p.seat, handle: p.serve, report: p.malformed,
		listeners: map[net.Listener]bool{},
		idle:      make(chan net.Conn),
		quit:      make(chan struct{}),
	}
}

// serve takes connections until l or the server is closed. It closes l.
func (s *server) serve(l net.Listener) error {
	defer l.Close()
	if !s.track(l) {
		return nil
	}
	defer s.accepting.Done()
	for {
		raw, err := l.Accept()
		switch {
		case err == nil:
			s.start(raw)
		case s.isClosing() && errors.Is(err, os.ErrDeadlineExceeded) && isReadable(l):
			// The deadline came before our turn to accept did, as on a busy machine.
			setDeadline(l, time.Now().Add(backlogPatience))
		case s.isClosing():
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.waitUntilResumed()
		case isTemporary(err):
			// Out of descriptors: they come back as calls end, and as those end that send nothing.
			s.slots.makeRoom()
		default:
			return err
		}
	}
}

// pause leaves new connections in the backlog of their listeners, until resume.
func (s *server) pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused != nil {
		return
	}
	s.paused = make(chan struct{})
	for l := range s.listeners {
		setDeadline(l, time.Unix(1, 0))
	}
}

func (s *server) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused == nil {
		return
	}
	if !s.closing {
		for l := range s.listeners {
			setDeadline(l, time.Time{})
		}
	}
	close(s.paused)
	s.paused = nil
}

func (s *server) waitUntilResumed() {
	s.mu.Lock()
	paused := s.paused
	s.mu.Unlock()
	if paused == nil {
		return
	}
	select {
	case <-paused:
	case <-s.quit:
	}
}

// isReadable tells whether there is something to accept from a listener, or to read from a connection.
func isReadable(from any) (readable bool) {
	c, ok := from.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		readable = n > 0 && err == nil
	})
	return readable
}

func setDeadline(l net.Listener, at time.Time) bool {
	d, ok := l.(interface{ SetDeadline(time.Time) error })
	return ok && d.SetDeadline(at) == nil
}

func (s *server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.listeners[l] = true
	if s.paused != nil {
		setDeadline(l, time.Unix(1, 0))
	}
	s.accepting.Add(1)
	return true
}

func (s *server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

func isTemporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

// start serves a connection on a goroutine that waits for one, or on a new one.
func (s *server) start(raw net.Conn) {
	s.serving.Add(1)
	select {
	case s.idle <- raw:
	default:
		go s.work(raw)
	}
}

func (s *server) work(raw net.Conn) {
	patience := time.NewTimer(workerPatience)
	defer patience.Stop()
	for {
		s.serveConnection(raw)
		s.serving.Done()
		patience.Reset(workerPatience)
		select {
		case raw = <-s.idle:
		case <-patience.C:
			return
		case <-s.quit:
			return
		}
	}
}

// Connections that were made before the end of redirection may lie in the backlog of a listener,
// and their requests may not have been read yet.
const (
	backlogPatience = 50 * time.Millisecond  // for one more connection
	requestPatience = 200 * time.Millisecond // for the request of a connection
)

// shutdown takes what was sent before it, refuses what comes after, and waits for the calls under
// way until ctx ends. Then it ends those too.
func (s *server) shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.closing {
		s.closing = true
		close(s.quit)
	}
	for l := range s.listeners {
		stopAfterBacklog(l)
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.accepting.Wait() // nothing starts after that
		s.slots.each(func(c *connection) {
			if !c.busy.Load() {
				_ = c.SetReadDeadline(time.Now().Add(requestPatience))
			}
		})
		s.serving.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.slots.each(func(c *connection) { c.Close() })
		return ctx.Err()
	}
}

// stopAfterBacklog lets a listener accept what waits for it.
func stopAfterBacklog(l net.Listener) {
	if setDeadline(l, time.Now().Add(backlogPatience)) {
		return
	}
	_ = l.Close()
}

// serveConnection answers the requests of one connection, one after the other.
func (s *server) serveConnection(raw net.Conn) {
	defer s.survive()
	// Not by who accepts: it can take time to find out who connects.
	c := s.admit(raw)
	if c == nil {
		return
	}
	defer c.Close()
	// As much as a head may take: what is beyond is not read, and the head not parsed.
	limited := &io.LimitedReader{R: c.Conn}
	reader := readers.Get().(*bufio.Reader)
	reader.Reset(limited)
	defer readers.Put(reader)

	wait := s.limits.ReadTimeout
	for {
		limited.N = int64(s.limits.HeaderBytes)
		if !s.await(c, reader, wait) {
			s.knows(c)
			return
		}
		if !hasHead(reader) && !s.knows(c) {
			return
		}
		r, err := http.ReadRequest(reader)
		// Until here it could make room for others: half a request is no call.
		c.busy.Store(true)
		if err != nil {
			s.refuse(c, err, limited.N <= 0)
			return
		}
		limited.N = int64(s.limits.BodyBytes) + 1
		if !s.exchange(c, r) || s.isClosing() {
			return
		}
		c.busy.Store(false)
		wait = s.limits.IdleTimeout
	}
}

// await waits for the first byte of a request, and sets the time for the rest.
func (s *server) await(c *connection, reader *bufio.Reader, wait time.Duration) bool {
	if s.isClosing() {
		wait = requestPatience
	}
	_ = c.SetReadDeadline(time.Now().Add(wait))
	if _, err := reader.Peek(1); err != nil {
		return false
	}
	return c.SetReadDeadline(time.Now().Add(s.limits.ReadTimeout)) == nil
}

// hasHead tells whether the head of a request is there, so that to read it takes no time.
func hasHead(reader *bufio.Reader) bool {
	there, _ := reader.Peek(reader.Buffered())
	return bytes.Contains(there, []byte("\r\n\r\n"))
}

// knows waits until it is known who calls. It returns false for a connection that is not served, and is ended.
func (s *server) knows(c *connection) bool { return c.rest == nil || s.seat(c) }

// survive keeps a fault in the handling of one call from ending the bridge, and all others' calls.
func (s *server) survive() {
	if fault := recover(); fault != nil {
		s.logger.Error("a call could not be served", "panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
	}
}

// exchange answers one request. It returns false when the connection ends with it.
func (s *server) exchange(c *connection, r *http.Request) (again bool) {
	w := &answerWriter{conn: c, request: r, timeout: s.limits.WriteTimeout}
	valid := validHeader(r.Header)
	if (!valid || r.Body != http.NoBody || r.Header.Get("Expect") != "") && !s.knows(c) {
		return false
	}
	if !valid {
		w.writeLocal(local(http.StatusBadRequest, "a header is malformed"))
		s.report(c, http.StatusBadRequest, errHeader)
		discard(c.Conn)
		return false
	}
	if strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return false
		}
		r.Header.Del("Expect")
	}
	s.handle(w, r)
	// A body that nobody read, or half an answer: what follows cannot be told from it.
	return w.keep && r.Body.Close() == nil
}

var errHeader = errors.New("malformed header")

// validHeader refuses names and values that two parsers can read in two ways: net/http's server
// checks them after parsing, and http.ReadRequest alone does not.
func validHeader(h http.Header) bool {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return false
			}
		}
	}
	return true
}

// refuse answers what is not a request.
func (s *server) refuse(c *connection, err error, tooLarge bool) {
	status, why := http.StatusBadRequest, "not an HTTP request"
	switch {
	case tooLarge:
		status, why = http.StatusRequestHeaderFieldsTooLarge, "the request's head is too large"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return // half a request, and no more of it to come
	}
	if !s.knows(c) {
		return
	}
	w := &answerWriter{conn: c, timeout: s.limits.WriteTimeout}
	w.writeLocal(local(status, why))
	discard(c.Conn)
	s.report(c, status, err)
}
