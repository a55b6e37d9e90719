package simulator

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

// answer is what the service says to one request. Content-Length, Date, Server and Connection are
// added when it is encoded.
type answer struct {
	status int
	order  []string          // header names in the order of the wire; those without a value are left out
	header map[string]string // the headers that this answer has of its own
	body   []byte
}

// Header orders of the wire. The first three are of today's service: captures of 2019 to 2024 (data,
// and 404 with its page), of 2020 to 2026 (token, 401, 405) and of 2023 (403; that one has no
// Connection header, which is added here as on every other answer). The last is of the older backend:
// captures of 2020-01 and 2023-05.
var (
	orderData      = []string{imds.HeaderTokenTTL, "Content-Type", "Accept-Ranges", "Content-Range", "Last-Modified", "Content-Length", "Date", "Server", "Connection"}
	orderEmpty     = []string{imds.HeaderTokenTTL, "Allow", "Content-Length", "Date", "Server", "Connection", "Content-Type"}
	orderForbidden = []string{imds.HeaderTokenTTL, "Content-Length", "Content-Type", "Date", "Server", "Connection"}
	orderOlder     = []string{"Accept-Ranges", "Allow", "Content-Length", "Content-Range", "Content-Type", "Date", "Last-Modified", "Location", imds.HeaderTokenTTL, "Connection", "Server"}
)

const (
	textPlain   = "text/plain"
	octetStream = "application/octet-stream"
)

// reasons are the phrases of the status line where they are not the standard's.
var reasons = map[int]string{http.StatusMethodNotAllowed: "Not Allowed"}

func reason(status int) string {
	if phrase, ok := reasons[status]; ok {
		return phrase
	}
	return http.StatusText(status)
}

// empty is an answer without a body: what the part of the service that looks after tokens says.
func empty(status int) answer {
	order := orderEmpty
	if status == http.StatusForbidden {
		order = orderForbidden
	}
	return answer{status: status, order: order, header: map[string]string{"Content-Type": textPlain}}
}

// notAllowed is a 405. The older backend's body and today's lack of one are as for 401.
func notAllowed(allow string) answer {
	a := empty(http.StatusMethodNotAllowed)
	a.header["Allow"] = allow
	return a
}

// page is an answer with the error page of 345 bytes that captures of a 404 show.
func page(status int) answer {
	return answer{status: status, order: orderData, header: map[string]string{"Content-Type": "text/html"}, body: errorPage(status)}
}

func errorPage(status int) []byte {
	return fmt.Appendf(nil, `<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
         "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>%[1]d - %[2]s</title>
 </head>
 <body>
  <h1>%[1]d - %[2]s</h1>
 </body>
</html>
`, status, reason(status))
}

// data is a 200 with a body of the tree.
func data(contentType, ranges string, modified time.Time, body []byte) answer {
	return answer{
		status: http.StatusOK,
		order:  orderData,
		header: map[string]string{
			"Content-Type":  contentType,
			"Accept-Ranges": ranges,
			"Last-Modified": httpTime(modified),
		},
		body: body,
	}
}

// older turns an answer into the older backend's: its header order, and a page with every error.
func (a answer) older() answer {
	a.order = orderOlder
	if a.status >= http.StatusBadRequest && len(a.body) == 0 {
		a.body = errorPage(a.status)
		a.header["Content-Type"] = "text/html"
	}
	return a
}

// encode is the answer as it goes on the wire, HTTP/1.0 from the older backend. To HEAD it has the
// headers of GET and no body.
func (a answer) encode(head, older, keepAlive bool, now time.Time) []byte {
	proto := "HTTP/1.1"
	if older {
		proto, a = "HTTP/1.0", a.older()
	}
	a.header["Content-Length"] = strconv.Itoa(len(a.body))
	a.header["Date"] = httpTime(now)
	a.header["Server"] = "EC2ws"
	if !keepAlive {
		a.header["Connection"] = "close"
	}
	var wire bytes.Buffer
	fmt.Fprintf(&wire, "%s %d %s\r\n", proto, a.status, reason(a.status))
	for _, name := range a.order {
		if value, ok := a.header[name]; ok {
			fmt.Fprintf(&wire, "%s: %s\r\n", name, value)
		}
	}
	wire.WriteString("\r\n")
	if !head {
		wire.Write(a.body)
	}
	return wire.Bytes()
}

func httpTime(t time.Time) string { return t.UTC().Format(http.TimeFormat) }
