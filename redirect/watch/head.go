package watch

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
)

// harmless are the headers whose values are told: what tells the kinds of requests apart, what the
// parser needs, and what clients say of themselves. Names are in lower case.
var harmless = map[string]bool{
	"accept":                               true,
	"connection":                           true,
	"content-length":                       true,
	"host":                                 true,
	"metadata":                             true, // Azure
	"metadata-flavor":                      true, // Google
	"traceparent":                          true,
	"tracestate":                           true,
	"transfer-encoding":                    true,
	"user-agent":                           true,
	"x-aws-ec2-metadata-token-ttl-seconds": true,
}

// oracle is the one value of Authorization that is no secret: it tells Oracle's service apart.
const oracle = "Bearer Oracle"

// head is the head of a request, without secrets.
type head struct {
	method, target, proto, host string
	header                      http.Header
	body                        body
}

// parseHead reads the head of a request. It overwrites secrets before anything is copied.
func parseHead(b []byte) (head, error) {
	mask(b)
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return head{}, err
	}
	if len(r.Header) > maxHeaders {
		return head{}, errHeadTooLong
	}
	for name, values := range r.Header {
		for i, v := range values {
			if !harmless[strings.ToLower(name)] && v != oracle {
				values[i] = Redacted
			}
		}
	}
	return head{r.Method, r.RequestURI, r.Proto, r.Host, r.Header, bodyOf(r)}, nil
}

// mask overwrites the values of headers that are not known to be harmless, continuation lines
// included. Lengths stay as they are.
func mask(b []byte) {
	_, lines, _ := bytes.Cut(b, []byte("\n"))
	secret := true // what continues the line before
	for line := range bytes.Lines(lines) {
		if line[0] == ' ' || line[0] == '\t' {
			if secret {
				overwrite(line[1:])
			}
			continue
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found {
			value = line
		}
		secret = !harmless[string(bytes.ToLower(name))]
		if secret && !isOracle(name, value) {
			overwrite(value)
		}
	}
}

func overwrite(line []byte) {
	for i, c := range line {
		if c != '\r' && c != '\n' {
			line[i] = '*'
		}
	}
}

func isOracle(name, value []byte) bool {
	return bytes.EqualFold(name, []byte("Authorization")) && string(bytes.TrimSpace(value)) == oracle
}

// endOfHead finds the end of a head: an empty line. It returns -1 where there is none. The first
// bytes were searched before.
func endOfHead(b []byte, searched int) int {
	for from := max(searched-len("\n\r"), 0); ; {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return -1
		}
		from += i + 1
		switch rest := b[from:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return from + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return from + 2
		}
	}
}

// looksLikeRequest tells whether a segment begins as a request does.
func looksLikeRequest(b []byte) bool {
	method, rest, found := bytes.Cut(b[:min(len(b), 32)], []byte(" "))
	if !found || len(method) < len("GET") || len(rest) == 0 {
		return false
	}
	for _, c := range method {
		if c < 'A' || c > 'Z' {
			return false
		}
	}
	return rest[0] == '/' || rest[0] == '*' || bytes.HasPrefix(rest, []byte("http"))
}

// parseStatus reads a status line as far as the status. It returns 0 where there is none.
func parseStatus(b []byte) int {
	version, rest, _ := bytes.Cut(b, []byte(" "))
	if !bytes.HasPrefix(version, []byte("HTTP/")) || len(rest) < 3 {
		return 0
	}
	status := 0
	for _, c := range rest[:3] {
		if c < '0' || c > '9' {
			return 0
		}
		status = 10*status + int(c-'0')
	}
	return status
}
