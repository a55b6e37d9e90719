package simulator

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
)

// Bounds of a request. The service's own are not known.
const (
	maxHead = 64 << 10
	maxBody = 64 << 10
)

var errHeadTooLarge = errors.New("request head too large")

// received is a request as it came.
type received struct {
	head  []byte
	body  []byte
	req   *http.Request // the head parsed, its body not to be used; nil if it cannot be
	kind  kind
	whole bool // the connection stands where the next request would begin
}

func (r received) method() string {
	if r.req == nil {
		return ""
	}
	return r.req.Method
}

// receive reads one request. It fails only where there is nobody to answer.
func receive(reader *bufio.Reader) (received, error) {
	head, err := readHead(reader)
	if err != nil && !errors.Is(err, errHeadTooLarge) {
		return received{}, err
	}
	r := received{head: head, kind: kindOther}
	r.req, err = http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return received{head: head, kind: kindOther}, nil
	}
	r.kind = kindOf(r.req)
	r.body, r.whole = readBody(r.req, reader)
	return r, nil
}

// readHead returns the request line and headers with their line ends, as they came. Empty lines before
// them are skipped, as RFC 9112 section 2.2 asks.
func readHead(reader *bufio.Reader) (head []byte, err error) {
	lineStart := 0
	for {
		part, err := reader.ReadSlice('\n')
		head = append(head, part...)
		switch {
		case len(head) > maxHead:
			return head, errHeadTooLarge
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return head, err
		}
		if len(bytes.TrimRight(head[lineStart:], "\r\n")) == 0 {
			if lineStart > 0 {
				return head, nil
			}
			head = head[:0]
		}
		lineStart = len(head)
	}
}

// readBody reads the body that a request announces, up to maxBody; whole tells whether that was all.
func readBody(req *http.Request, reader *bufio.Reader) (body []byte, whole bool) {
	var source io.Reader
	switch {
	case req.Header.Get("Expect") != "":
		return nil, false // the client waits for a word before it sends its body
	case len(req.TransferEncoding) > 0:
		source = httputil.NewChunkedReader(reader)
	case req.ContentLength > 0:
		source = io.LimitReader(reader, req.ContentLength)
	default:
		return nil, true
	}
	body, err := io.ReadAll(io.LimitReader(source, maxBody))
	whole = err == nil && len(body) < maxBody && (req.ContentLength < 0 || int64(len(body)) == req.ContentLength)
	return body, whole
}
