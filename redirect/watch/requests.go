package watch

import (
	"bytes"
	"errors"
	"time"
)

// maxHead bounds the head of a request. IMDS itself takes less.
const maxHead = 32 << 10

// maxHeaders bounds the names of headers: what is not told yet is kept.
const maxHeaders = 128

var errHeadTooLong = errors.New("the head of the request is too long")

// requests finds requests in the bytes that a connection sends, in their order.
type requests struct {
	head     []byte        // begun
	searched int           // of head, for its end
	begun    time.Duration // when the first byte of head was sent
	body     body          // of the request before
}

// add takes the next bytes and calls found for each request whose head is whole now.
func (r *requests) add(at time.Duration, data []byte, found func(begun time.Duration, h head)) error {
	for len(data) > 0 {
		if !r.body.ended() {
			var err error
			if data, err = r.body.skip(data); err != nil {
				return err
			}
			continue
		}
		if len(r.head) == 0 {
			// RFC 9112, section 2.2: empty lines before a request are passed over.
			if data = bytes.TrimLeft(data, "\r\n"); len(data) == 0 {
				break
			}
			r.begun = at
		}
		before := len(r.head)
		r.head = grow(r.head, data)
		end := endOfHead(r.head, r.searched)
		if end < 0 && len(r.head) <= maxHead {
			r.searched = len(r.head)
			break
		}
		if end < 0 || end > maxHead {
			return errHeadTooLong
		}
		h, err := parseHead(r.head[:end])
		r.wipe()
		if err != nil {
			return err
		}
		data = data[end-before:]
		r.body = h.body
		found(r.begun, h)
	}
	return nil
}

// pass takes note of bytes that were sent and not seen. It returns false where that would leave
// open what follows.
func (r *requests) pass(n int64) bool {
	if r.body.left < n {
		return false
	}
	r.body.left -= n
	return true
}

// reset forgets all.
func (r *requests) reset() {
	r.wipe()
	r.body = body{}
}

func (r *requests) wipe() {
	clear(r.head)
	r.head, r.searched = nil, 0
}

// grow is append, but leaves no copy behind: there may be tokens in it.
func grow(b, data []byte) []byte {
	if need := len(b) + len(data); need > cap(b) {
		bigger := make([]byte, len(b), max(2*cap(b), need))
		copy(bigger, b)
		clear(b)
		b = bigger
	}
	return append(b, data...)
}
