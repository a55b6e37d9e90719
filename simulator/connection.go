package simulator

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	// ioTimeout ends a connection that sends no request or takes no answer.
	ioTimeout = 30 * time.Second
	// lingerTimeout is how long the rest of a closed connection is read away.
	lingerTimeout = 250 * time.Millisecond
)

// net/http's server has its own reason phrases and sorts headers, so the exchange is written out here:
// one request, one answer in one write, and the end of the connection.
func (s *Simulator) serveConnection(conn net.Conn) {
	defer s.untrack(conn)
	reader := bufio.NewReader(conn)
	limit := hopLimit{conn: conn}
	for s.exchange(conn, reader, &limit) {
	}
}

// exchange serves one request and reports whether another may follow on the connection.
func (s *Simulator) exchange(conn net.Conn, reader *bufio.Reader, limit *hopLimit) (again bool) {
	if conn.SetDeadline(time.Now().Add(ioTimeout)) != nil {
		return false
	}
	r, err := receive(reader)
	if err != nil {
		return false
	}
	behaviour := s.Behaviour().toward(r.kind)
	reply := s.decide(r.req, behaviour)
	if behaviour.Drop != "" {
		reply.status = 0
	}
	s.note(conn, r, reply.status)

	if behaviour.Drop == DropHang {
		hang(conn)
		return false
	}
	if !s.pause(behaviour.Delay) || behaviour.Drop == DropClose {
		return false
	}
	if err := limit.set(r.method() == http.MethodPut, s.MetadataOptions().HTTPPutResponseHopLimit); err != nil {
		s.log.Error("set hop limit", "error", err)
		return false
	}
	if conn.SetDeadline(time.Now().Add(ioTimeout)) != nil {
		return false
	}
	keep := behaviour.KeepAlive && !behaviour.OlderBackend && r.whole && !r.req.Close
	wire := reply.encode(r.method() == http.MethodHead, behaviour.OlderBackend, keep, s.now())
	if _, err := conn.Write(wire); err != nil {
		return false
	}
	if !keep && (!r.whole || reader.Buffered() > 0) {
		linger(conn)
	}
	return keep
}

// decide is the answer to a request, which is nil if it could not be read.
func (s *Simulator) decide(req *http.Request, behaviour Behaviour) answer {
	if behaviour.Status != 0 {
		return page(behaviour.Status)
	}
	if req == nil || req.ProtoMajor != 1 {
		return page(http.StatusBadRequest)
	}
	current := service{s.tree, s.tokens, s.MetadataOptions(), behaviour.OlderBackend, s.started}
	return current.answer(req, s.now())
}

// note counts and remembers a request, and logs it without its headers, which hold tokens.
func (s *Simulator) note(conn net.Conn, r received, status int) {
	seen := Request{
		Time:   s.now(),
		Local:  conn.LocalAddr().String(),
		Remote: conn.RemoteAddr().String(),
		Kind:   string(r.kind),
		Head:   string(r.head),
		Body:   r.body,
		Status: status,
	}
	if r.req != nil {
		seen.Method, seen.Target, seen.Proto = r.req.Method, r.req.RequestURI, r.req.Proto
		seen.Host, seen.Header = r.req.Host, r.req.Header
	}
	s.seen.request(seen)
	s.log.Debug("request", "kind", seen.Kind, "method", seen.Method, "target", seen.Target,
		"proto", seen.Proto, "status", status, "remote", seen.Remote)
}

// hang waits until the client or Close ends the connection.
func hang(conn net.Conn) {
	if conn.SetDeadline(time.Time{}) == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
}

// linger ends the sending side and reads what the client still sends. Closing with unread bytes would
// make the kernel reset the connection, and the client could lose its answer.
func linger(conn net.Conn) {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || conn.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, conn)
}
