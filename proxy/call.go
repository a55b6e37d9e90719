package proxy

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
	Peer             Peer
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
	errorUpstream    = "upstream_unavailable"
	errorNotRecorded = "not_recorded"
	errorPath        = "path"
	errorTarget      = "target"
	errorBody        = "body" // too large, or it did not come whole
	errorWithheld    = "hop_limit"
	errorMalformed   = "malformed"
)

// misdirected is the report of a connection that no record names.
func misdirected(c *connection, cause error) *Call {
	now := time.Now()
	return &Call{
		Start: now, End: now, Client: c.client, Listener: c.listener,
		Decision: policy.Decision{Verdict: policy.Deny, Reason: errorNotRecorded},
		Status:   http.StatusMisdirectedRequest,
		Error:    errorNotRecorded,
		Cause:    cause,
	}
}

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

func newCall(c *connection, r *http.Request) *Call {
	return &Call{
		Start:     time.Now(),
		Method:    r.Method,
		Proto:     r.Proto,
		Host:      r.Host,
		UserAgent: r.UserAgent(),
		Client:    c.client,
		Listener:  c.listener,
		Peer:      c.peer,
		Trace:     traceHeader(r.Header),
	}
}

func traceHeader(h http.Header) http.Header {
	if len(h["Traceparent"]) == 0 {
		return nil
	}
	return http.Header{"Traceparent": h["Traceparent"], "Tracestate": h["Tracestate"]}
}
