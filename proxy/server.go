package proxy

import (
	"bufio"
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
	"time"
)

// server reads requests off connections and writes answers. net/http's would do both, but it
// writes a status line and header lines of its own making, and it keeps a second goroutine for
// each connection and throws both away after the one request that IMDS allows: measured, 40 % of
// what a call costs (docs/performance.md). Requests are still parsed by net/http.
type server struct {
	limits Limits
	slots  *slots
	handle func(*answerWriter, *http.Request)
	logger *slog.Logger

	mu        sync.Mutex
	listeners map[net.Listener]bool
	closing   bool
	serving   sync.WaitGroup

	// idle leads to goroutines that have served before: their stacks have grown.
	idle chan *connection
	quit chan struct{} // closed at shutdown
}

// workerPatience is how long a goroutine waits for another connection.
const workerPatience = 2 * time.Second

func newServer(limits Limits, slots *slots, logger *slog.Logger, handle func(*answerWriter, *http.Request)) *server {
	return &server{
		limits: limits, slots: slots, logger: logger, handle: handle,
		listeners: map[net.Listener]bool{},
		idle:      make(chan *connection),
		quit:      make(chan struct{}),
	}
}

// serve takes connections that admit lets in, until l or the server is closed.
func (s *server) serve(l net.Listener, admit func(net.Conn) *connection) error {
	if !s.track(l) {
		return nil
	}
	for {
		raw, err := l.Accept()
		if err != nil {
			if s.isClosing() {
				return nil
			}
			if isTemporary(err) {
				// Out of descriptors: they come back as calls end.
				time.Sleep(10 * time.Millisecond)
				continue
			}
			return err
		}
		if c := admit(raw); c != nil {
			s.start(c)
		}
	}
}

func (s *server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		l.Close()
		return false
	}
	s.listeners[l] = true
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

// start serves c on a goroutine that waits for one, or on a new one.
func (s *server) start(c *connection) {
	s.serving.Add(1)
	select {
	case s.idle <- c:
	default:
		go s.work(c)
	}
}

func (s *server) work(c *connection) {
	patience := time.NewTimer(workerPatience)
	defer patience.Stop()
	for {
		s.serveConnection(c)
		s.serving.Done()
		patience.Reset(workerPatience)
		select {
		case c = <-s.idle:
		case <-patience.C:
			return
		case <-s.quit:
			return
		}
	}
}

// shutdown stops accepting, ends the connections that wait for a request, and waits for the
// calls under way until ctx ends. Then it ends those too.
func (s *server) shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.closing {
		s.closing = true
		close(s.quit)
	}
	for l := range s.listeners {
		l.Close()
	}
	s.mu.Unlock()
	s.slots.closeIdle()
	done := make(chan struct{})
	go func() { s.serving.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.slots.closeAll()
		return ctx.Err()
	}
}

// serveConnection answers the requests of one connection, one after the other.
func (s *server) serveConnection(c *connection) {
	defer c.Close()
	defer s.survive()
	// As much as a head may take: what is beyond is not read, and the head not parsed.
	limited := &io.LimitedReader{R: c.Conn}
	reader := readers.Get().(*bufio.Reader)
	reader.Reset(limited)
	defer readers.Put(reader)

	wait := s.limits.ReadTimeout
	for {
		c.SetReadDeadline(time.Now().Add(wait))
		limited.N = int64(s.limits.HeaderBytes)
		if _, err := reader.Peek(1); err != nil {
			return
		}
		c.busy.Store(true)
		c.SetReadDeadline(time.Now().Add(s.limits.ReadTimeout))
		r, err := http.ReadRequest(reader)
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

// survive keeps a fault in the handling of one call from ending the bridge, and all others' calls.
func (s *server) survive() {
	if fault := recover(); fault != nil {
		s.logger.Error("a call could not be served", "panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
	}
}

// exchange answers one request. It returns false when the connection ends with it.
func (s *server) exchange(c *connection, r *http.Request) (again bool) {
	w := &answerWriter{conn: c, request: r, timeout: s.limits.WriteTimeout}
	if !validHeader(r.Header) {
		w.writeLocal(local(http.StatusBadRequest, "a header's value has a control character"))
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

// validHeader keeps what one parser takes for a line's end from reaching another one.
func validHeader(h http.Header) bool {
	for _, values := range h {
		for _, v := range values {
			for _, b := range []byte(v) {
				if b < ' ' && b != '\t' || b == 0x7f {
					return false
				}
			}
		}
	}
	return true
}

// refuse answers what is not a request.
func (s *server) refuse(c *connection, err error, tooLarge bool) {
	w := &answerWriter{conn: c, timeout: s.limits.WriteTimeout}
	switch {
	case tooLarge:
		w.writeLocal(local(http.StatusRequestHeaderFieldsTooLarge, "the request's head is too large"))
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		// Half a request, and no more of it to come.
	default:
		w.writeLocal(local(http.StatusBadRequest, "not an HTTP request"))
	}
}
