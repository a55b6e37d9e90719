package watch

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
)

// body is what is left of a request's body, of which nothing is kept.
type body struct {
	left    int64 // bytes to pass over before anything else
	chunked bool
	line    []byte // begun, of a chunk's size or a trailer
	last    bool   // the last chunk was there: trailers follow, and an empty line
}

// maxChunkLine bounds the line before a chunk, and a trailer.
const maxChunkLine = 4096

var errChunk = errors.New("the body's chunks cannot be told apart")

func bodyOf(r *http.Request) body {
	if r.ContentLength < 0 {
		return body{chunked: true}
	}
	return body{left: r.ContentLength}
}

func (b *body) ended() bool { return b.left == 0 && !b.chunked }

// skip passes over what belongs to the body, and returns what follows it.
func (b *body) skip(data []byte) ([]byte, error) {
	for len(data) > 0 && !b.ended() {
		if b.left > 0 {
			n := min(b.left, int64(len(data)))
			b.left -= n
			data = data[n:]
			continue
		}
		end := bytes.IndexByte(data, '\n') + 1
		if end == 0 {
			end = len(data)
		}
		b.line = append(b.line, data[:end]...)
		data = data[end:]
		if len(b.line) > maxChunkLine {
			return nil, errChunk
		}
		if b.line[len(b.line)-1] == '\n' {
			if err := b.endLine(); err != nil {
				return nil, err
			}
		}
	}
	return data, nil
}

// endLine takes a whole line: the size of a chunk, or a trailer.
func (b *body) endLine() error {
	line := bytes.TrimRight(b.line, "\r\n")
	b.line = b.line[:0]
	if b.last {
		b.chunked = len(line) > 0
		return nil
	}
	size, _, _ := bytes.Cut(line, []byte(";"))
	n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 40)
	if err != nil {
		return errChunk
	}
	b.last = n == 0
	if n > 0 {
		b.left = int64(n) + int64(len("\r\n"))
	}
	return nil
}
