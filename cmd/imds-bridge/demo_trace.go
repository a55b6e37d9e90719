package main

import (
	"cmp"
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/imds-bridge/imds-bridge/lab"
)

// demoTrace is one trace, its spans in the order of their start.
type demoTrace struct {
	ID    string     `json:"trace_id"`
	Spans []demoSpan `json:"spans"`

	upgraded bool // imds.upgraded of the server span
}

type demoSpan struct {
	Name       string `json:"name"`
	Kind       string `json:"kind"` // as in OTLP, in lower case: server, client
	DurationUS int64  `json:"duration_us"`

	id, parent string
}

// spanSink is an OTLP/HTTP receiver that keeps what it is sent.
type spanSink struct {
	mu    sync.Mutex
	spans []*tracepb.Span
}

// serve receives at demoOTLP in a namespace until stop.
func (s *spanSink) serve(n *lab.Namespace) (stop func(), err error) {
	ln, err := n.Listen("tcp4", demoOTLP)
	if err != nil {
		return nil, fmt.Errorf("receive traces: %w", err)
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(ln) }() // it ends with Close
	return func() { _ = server.Close() }, nil
}

// ServeHTTP takes one export of spans.
func (s *spanSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body io.Reader = http.MaxBytesReader(w, r.Body, 4<<20)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	var export collector.ExportTraceServiceRequest
	data, err := io.ReadAll(body)
	if err == nil {
		err = proto.Unmarshal(data, &export)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.keep(&export)
	w.Header().Set("Content-Type", "application/x-protobuf") // an empty message is an empty body
}

func (s *spanSink) keep(export *collector.ExportTraceServiceRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range export.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			s.spans = append(s.spans, scope.Spans...)
		}
	}
}

// traceOf waits for the trace of a call of a process.
func (s *spanSink) traceOf(ctx context.Context, pid int) (demoTrace, error) {
	var found demoTrace
	err := await(ctx, "the bridge's trace", func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, span := range s.spans {
			if span.Kind == tracepb.Span_SPAN_KIND_SERVER && otlpAttribute(span, "process.pid").GetIntValue() == int64(pid) {
				// It ends last, so its children have been exported with it or before.
				found = traceAround(span, s.spans)
				return true, nil
			}
		}
		return false, nil
	})
	return found, err
}

// traceAround gathers the trace of a server span.
func traceAround(server *tracepb.Span, all []*tracepb.Span) demoTrace {
	trace := demoTrace{
		ID:       hex.EncodeToString(server.TraceId),
		upgraded: otlpAttribute(server, "imds.upgraded").GetBoolValue(),
	}
	spans := slices.DeleteFunc(slices.Clone(all), func(s *tracepb.Span) bool {
		return !slices.Equal(s.TraceId, server.TraceId)
	})
	slices.SortStableFunc(spans, func(a, b *tracepb.Span) int {
		return cmp.Compare(a.StartTimeUnixNano, b.StartTimeUnixNano)
	})
	for _, s := range spans {
		trace.Spans = append(trace.Spans, demoSpan{
			Name:       s.Name,
			Kind:       strings.ToLower(strings.TrimPrefix(s.Kind.String(), "SPAN_KIND_")),
			DurationUS: (time.Duration(s.EndTimeUnixNano-s.StartTimeUnixNano) * time.Nanosecond).Microseconds(),
			id:         string(s.SpanId),
			parent:     string(s.ParentSpanId),
		})
	}
	return trace
}

// otlpAttribute is the value of a span's attribute; nil if it has none.
func otlpAttribute(span *tracepb.Span, key string) *common.AnyValue {
	for _, a := range span.Attributes {
		if a.Key == key {
			return a.Value
		}
	}
	return nil
}
