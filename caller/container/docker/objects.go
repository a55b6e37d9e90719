package docker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// errTooLong is for one object. The next can be read.
var errTooLong = errors.New("an object is too long")

const (
	// endless times the limit of an object is read and dropped before its writer is given up.
	endless = 64
	// buffered is how much memory is kept between objects.
	buffered = 64 << 10
)

// objects reads JSON objects one by one, those of an array as those that just follow each other. So
// neither a long list takes much memory, nor does one long object hide the others.
type objects struct {
	r     *bufio.Reader
	limit int // bytes of an object
	text  []byte
}

func newObjects(r io.Reader, limit int) *objects {
	return &objects{r: bufio.NewReader(r), limit: limit}
}

// next returns the text of the next object, valid until it is called again, or [errTooLong] once
// it has skipped one, or [io.EOF] after the last. What is inside the braces may not be JSON.
func (o *objects) next() ([]byte, error) {
	if err := o.begin(); err != nil {
		return nil, err
	}
	if cap(o.text) > buffered {
		o.text = nil
	}
	o.text = append(o.text[:0], '{')
	size, depth, inString, escaped := 1, 1, false, false
	for ; depth > 0; size++ {
		b, err := o.r.ReadByte()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		if size < o.limit {
			o.text = append(o.text, b)
		} else if size == endless*o.limit {
			return nil, errors.New("an object does not end")
		}
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped, inString = b == '\\', b != '"'
		case b == '"':
			inString = true
		case b == '{' || b == '[':
			depth++
		case b == '}' || b == ']':
			depth--
		}
	}
	if size > o.limit {
		return nil, errTooLong
	}
	return o.text, nil
}

// begin reads up to the brace that begins an object.
func (o *objects) begin() error {
	for {
		b, err := o.r.ReadByte()
		switch {
		case err != nil:
			return err
		case b == '{':
			return nil
		case !strings.ContainsRune(" \t\r\n[,]", rune(b)):
			return fmt.Errorf("%q where an object should begin", b)
		}
	}
}
