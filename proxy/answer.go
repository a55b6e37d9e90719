package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

// answerWriter writes one answer to a connection. It is the http.ResponseWriter of the engine.
//
// An answer of IMDS keeps its head as it came, byte for byte but for the lines that are not for
// the caller; one of the bridge's own gets a head made from its header.
type answerWriter struct {
	conn    *connection
	request *http.Request
	timeout time.Duration
	header  http.Header

	head  []byte // as IMDS sent it; nil for the bridge's own answers
	close bool   // IMDS closes, or nothing says where the answer ends
	drop  string // a header line to leave out of head

	keep   bool // another request may follow
	status int
	buf    *bytes.Buffer // head, and as much of the body as comes with it
}

// Header is what the engine copies the answer's header into. It counts for local answers alone.
func (w *answerWriter) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

// WriteHeader prepares the head. It is sent with the first of the body, or by flush.
func (w *answerWriter) WriteHeader(status int) {
	w.status = status
	w.buf = buffers.Get().(*bytes.Buffer)
	w.buf.Reset()
	if w.head != nil {
		w.writeForeign()
	} else {
		w.writeOwn()
	}
}

func (w *answerWriter) writeForeign() {
	for line := range bytes.Lines(w.head) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		if w.drop != "" && bytes.EqualFold(name, []byte(w.drop)) || bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			continue
		}
		w.buf.Write(line)
	}
	w.keep = !w.close && !w.request.Close
}

func (w *answerWriter) writeOwn() {
	fmt.Fprintf(w.buf, "HTTP/1.1 %d %s\r\n", w.status, http.StatusText(w.status))
	_ = w.header.Write(w.buf) // a buffer takes all
	w.buf.WriteString("\r\n")
}

// noBody tells that the request asked for a head alone.
func (w *answerWriter) noBody() bool {
	return w.request != nil && w.request.Method == http.MethodHead
}

// Write sends p after the head.
func (w *answerWriter) Write(p []byte) (int, error) {
	if w.noBody() {
		return len(p), w.flush()
	}
	if w.buf == nil {
		w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
		n, err := w.conn.Write(p)
		if err != nil {
			w.keep = false
		}
		return n, err
	}
	w.buf.Write(p)
	return len(p), w.flush()
}

// bodyChunk is how much of a body is taken at once, in bytes: all of what IMDS has.
const bodyChunk = 32 << 10

// ReadFrom sends a body. A short one goes out together with the head.
func (w *answerWriter) ReadFrom(body io.Reader) (sent int64, err error) {
	if w.noBody() {
		return 0, w.flush()
	}
	for {
		if w.buf == nil {
			w.buf = buffers.Get().(*bytes.Buffer)
			w.buf.Reset()
		}
		n, err := w.buf.ReadFrom(io.LimitReader(body, bodyChunk))
		sent += n
		flushed := w.flush()
		if err = errors.Join(err, flushed); err != nil {
			w.breakOff()
			return sent, err
		}
		if n < bodyChunk {
			return sent, nil
		}
	}
}

// breakOff ends the connection of an answer that came to no end, so that its caller does not
// take it for a whole one.
func (w *answerWriter) breakOff() {
	w.keep = false
	if tcp, ok := w.conn.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset, where the length was told by the end
	}
}

// flush sends what is not sent yet.
func (w *answerWriter) flush() error {
	if w.buf == nil {
		return nil
	}
	w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
	_, err := w.conn.Write(w.buf.Bytes())
	buffers.Put(w.buf)
	w.buf = nil
	if err != nil {
		w.keep = false
	}
	return err
}

// writeLocal writes an answer of the bridge's own. It closes the connection, as IMDS does.
func (w *answerWriter) writeLocal(resp *http.Response) {
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.ReadFrom(resp.Body) // a caller that is gone needs no answer
}

// abandon leaves the caller without an answer: what the engine writes from now on goes nowhere.
func (w *answerWriter) abandon() {
	w.conn.Conn.Close()
	w.keep = false
}

// local is an answer of the bridge's own.
func local(status int, why string) *http.Response {
	text := "imds-bridge: " + why + "\n"
	return &http.Response{
		StatusCode: status,
		Header: http.Header{
			"Content-Type":   {"text/plain"},
			"Content-Length": {strconv.Itoa(len(text))},
			"Server":         {"imds-bridge"},
			"Connection":     {"close"},
		},
		Body: io.NopCloser(bytes.NewReader([]byte(text))),
	}
}

// busyAnswer goes to connections that find no slot, before anything is read from them.
var busyAnswer = []byte("HTTP/1.1 503 Service Unavailable\r\nServer: imds-bridge\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

// misdirectedAnswer goes to connections that no record names: somebody dialled the listener.
var misdirectedAnswer = []byte("HTTP/1.1 421 Misdirected Request\r\nServer: imds-bridge\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

// foreign makes w pass on an answer of IMDS.
func (w *answerWriter) foreign(resp *http.Response, head []byte, upgraded bool) {
	w.head = head
	w.close = resp.Close || resp.ContentLength < 0
	if upgraded {
		// It tells of a token that the caller never asked for.
		w.drop = imds.HeaderTokenTTL
	}
}
