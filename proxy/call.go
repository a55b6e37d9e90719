package proxy

import (
	"net/http"
	"time"

	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/report"
)

// misdirected is the report of a connection that no record names.
func misdirected(c *connection, cause error) *report.Call {
	now := time.Now()
	return &report.Call{
		Start: now, End: now, Client: c.client, Listener: c.listener,
		Decision: policy.Decision{Verdict: policy.Deny, Reason: report.ErrorNotRecorded},
		Status:   http.StatusMisdirectedRequest,
		Error:    report.ErrorNotRecorded,
		Cause:    cause,
	}
}

func newCall(c *connection, r *http.Request) *report.Call {
	return &report.Call{
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
