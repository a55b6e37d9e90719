package e2e

import (
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	spanpb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector receives OTLP over HTTP on the host of an instance. It keeps all that it is sent.
type collector struct {
	url string

	mu     sync.Mutex
	bodies map[string][][]byte // by path
}

func (i *instance) startCollector(t *testing.T) *collector {
	t.Helper()
	listener, err := i.Host().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{url: "http://" + listener.Addr().String(), bodies: make(map[string][][]byte)}
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil && r.URL.Path == "/v1/metrics" {
			return // a reader of metrics that is shut down gives up what it is sending, and sends all once more
		}
		if err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" || r.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s with %v: %v", r.URL.Path, r.Header, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.bodies[r.URL.Path] = append(c.bodies[r.URL.Path], body)
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return c
}

// env makes a program send all it has to the collector.
func (c *collector) env() []string {
	return []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_BLRP_SCHEDULE_DELAY=100", "OTEL_METRIC_EXPORT_INTERVAL=100",
	}
}

// received is all that came to a path.
func (c *collector) received(path string) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.bodies[path])
}

// span is one with its attributes as they are to be compared.
type span struct {
	*spanpb.Span
	attributes map[string]any
	resource   map[string]any
}

func (c *collector) spans(t *testing.T) (spans []span) {
	t.Helper()
	for _, body := range c.received("/v1/traces") {
		var request tracepb.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &request); err != nil {
			t.Fatal(err)
		}
		for _, of := range request.ResourceSpans {
			for _, scope := range of.ScopeSpans {
				for _, s := range scope.Spans {
					spans = append(spans, span{s, values(s.Attributes), values(of.Resource.Attributes)})
				}
			}
		}
	}
	return spans
}

func values(attributes []*commonpb.KeyValue) map[string]any {
	m := make(map[string]any)
	for _, a := range attributes {
		m[a.Key] = value(a.Value)
	}
	return m
}

func value(v *commonpb.AnyValue) any {
	switch v := v.Value.(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_IntValue:
		return int(v.IntValue)
	case *commonpb.AnyValue_BoolValue:
		return v.BoolValue
	case *commonpb.AnyValue_ArrayValue:
		var list []any
		for _, e := range v.ArrayValue.Values {
			list = append(list, value(e))
		}
		return list
	default:
		return v
	}
}
