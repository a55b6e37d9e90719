package report

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/policy"
)

// Call is one request and what became of it.
type Call struct {
	Start, End time.Time

	Method    string
	Path      string // canonical; "" when there is none
	Proto     string // HTTP/1.0 or HTTP/1.1
	Host      string
	UserAgent string
	Kind      imds.Kind
	Route     imds.Route
	RelaySign string      // the header that makes the request look relayed, or ""
	Trace     http.Header // traceparent and tracestate as they came

	Client, Listener netip.AddrPort
	Peer             caller.Peer
	Caller           *caller.Caller // nil when no record says who

	Decision policy.Decision
	Upgraded bool
	Status   int    // of the answer; 0 when there was none
	Error    string // one of a closed set; "" when all went well
	Cause    error  // behind Error
	Legs     []Leg  // what went upstream, in order
}

// Leg is one exchange with IMDS.
type Leg struct {
	Token      bool // fetches the bridge's own token
	Start, End time.Time
	Method     string
	Address    netip.AddrPort
	Resends    int // how often the request was sent before
	Status     int // 0 when there was no answer
	Err        error
}

// Values of Call.Error, which is error.type on the span.
const (
	ErrorUpstream    = "upstream_unavailable"
	ErrorNotRecorded = "not_recorded"
	ErrorPath        = "path"
	ErrorTarget      = "target"
	ErrorBody        = "body" // too large, or it did not come whole
	ErrorWithheld    = "hop_limit"
	ErrorMalformed   = "malformed"
)

// ownLegs are those that no other call shares: a token that many wait for is fetched once.
func (c *Call) ownLegs() []Leg {
	own := make([]Leg, 0, len(c.Legs))
	for _, leg := range c.Legs {
		if !leg.Token {
			own = append(own, leg)
		}
	}
	return own
}

// Resends counts the requests that went upstream for this call before, fetches of the bridge's
// own token apart from the call itself.
func (c *Call) Resends(own bool) (n int) {
	for _, leg := range c.Legs {
		if leg.Token == own {
			n++
		}
	}
	return n
}

// Reasons of calls that nobody decided on: they were seen on their way to IMDS.
const (
	Watched  policy.Reason = "watched" // nothing is redirected
	Bypassed policy.Reason = "bypass"  // past a bridge that redirects
)
