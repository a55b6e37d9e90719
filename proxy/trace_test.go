package proxy

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func attributesOf(s tracetest.SpanStub) map[string]any {
	m := map[string]any{}
	for _, kv := range s.Attributes {
		m[string(kv.Key)] = kv.Value.AsInterface()
	}
	return m
}

func TestTraceOfAnUpgradedCall(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	send(t, b.addr, get("/latest/meta-data/iam/security-credentials/example-role?secret=1",
		"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
	b.stop(t)

	spans := b.spans.GetSpans()
	if len(spans) != 3 {
		t.Fatalf("%d spans, want the call, the token fetch and the forwarded call", len(spans))
	}
	fetch, forwarded, server := spans[0], spans[1], spans[2]
	const route = "/latest/meta-data/iam/security-credentials/{role}"
	if server.Name != "GET "+route || server.SpanKind != trace.SpanKindServer {
		t.Errorf("server span %q, %s", server.Name, server.SpanKind)
	}
	if fetch.Name != "PUT /latest/api/token" || fetch.SpanKind != trace.SpanKindClient {
		t.Errorf("token span %q, %s", fetch.Name, fetch.SpanKind)
	}
	if forwarded.Name != "GET "+route || forwarded.SpanKind != trace.SpanKindClient {
		t.Errorf("upstream span %q, %s", forwarded.Name, forwarded.SpanKind)
	}
	for _, child := range []tracetest.SpanStub{fetch, forwarded} {
		if child.Parent.SpanID() != server.SpanContext.SpanID() {
			t.Errorf("%q is not a child of the call", child.Name)
		}
		if child.StartTime.Before(server.StartTime) || child.EndTime.After(server.EndTime) {
			t.Errorf("%q lies outside of the call", child.Name)
		}
	}
	if server.Parent.IsValid() || server.SpanContext.TraceID().String() == "0af7651916cd43dd8448eb211c80319c" {
		t.Error("the caller's trace context was taken for ours")
	}
	if len(server.Links) != 1 || server.Links[0].SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("links %v, want the caller's trace", server.Links)
	}
	got := attributesOf(server)
	for key, want := range map[string]any{
		"http.request.method":       "GET",
		"http.route":                route,
		"http.response.status_code": int64(200),
		"url.path":                  "/latest/meta-data/iam/security-credentials/example-role",
		"url.scheme":                "http",
		"server.address":            "169.254.169.254",
		"server.port":               int64(80),
		"network.protocol.version":  "1.1",
		"network.type":              "ipv4",
		"user_agent.original":       "curl/7.88.1",
		"process.pid":               int64(4242),
		"imds.version":              "v1",
		"imds.upgraded":             true,
		"imds.verdict":              "upgrade",
		"imds.reason":               "mode",
		"imds.sensitive":            true,
		"imds.route":                route,
		"imds.caller.host_network":  true,
		"imds.caller.comm":          "test",
	} {
		if got[key] != want {
			t.Errorf("%s = %v, want %v", key, got[key], want)
		}
	}
	for key, value := range attributesOf(forwarded) {
		if text, ok := value.(string); ok && strings.Contains(text, "secret") {
			t.Errorf("%s = %q holds the query", key, text)
		}
	}
}

func TestTraceOfTrouble(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required, behaviour: simulator.Behaviour{Drop: "close"}}.start(t)
	send(t, b.addr, get("/latest/meta-data/instance-id"))
	b.stop(t)
	spans := b.spans.GetSpans()
	server := spans[len(spans)-1]
	if server.Status.Code != codes.Error || attributesOf(server)["error.type"] != "upstream_unavailable" {
		t.Errorf("status %v, error.type %v", server.Status, attributesOf(server)["error.type"])
	}
}

func TestSpanNamesAreClosed(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	for _, raw := range []string{
		ask("BREW", "/pot/1234"), get("/latest/meta-data/tags/instance/Mine"), get("/random/9f8e7d"),
		get("/latest/../x"), get("/2099-01-01/meta-data/mac"),
	} {
		send(t, b.addr, raw)
	}
	b.stop(t)
	var names []string
	for _, s := range b.spans.GetSpans() {
		if s.SpanKind == trace.SpanKindServer {
			names = append(names, s.Name)
		}
	}
	want := []string{"HTTP /{unknown}", "GET /latest/meta-data/tags/instance/{key}", "GET /{unknown}", "GET", "GET /{version}/meta-data/mac"}
	if !slices.Equal(names, want) {
		t.Errorf("span names %q, want %q", names, want)
	}
}

// TestInboundSamplingIsNotTrusted sends a caller's "sampled" flag to a sampler that follows parents.
func TestInboundSamplingIsNotTrusted(t *testing.T) {
	t.Parallel()
	exporter := tracetest.NewInMemoryExporter()
	never := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
	b := setup{metadata: required, tracer: never}.start(t)
	send(t, b.addr, get("/latest/meta-data/instance-id", "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
	b.stop(t)
	if n := len(exporter.GetSpans()); n != 0 {
		t.Errorf("%d spans: the caller decided on sampling", n)
	}
}

// stuck is a span processor that holds up whoever ends a span, as a full batch queue does.
type stuck struct{ release chan struct{} }

func (s stuck) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (s stuck) OnEnd(sdktrace.ReadOnlySpan)                     { <-s.release }
func (s stuck) Shutdown(context.Context) error                  { return nil }
func (s stuck) ForceFlush(context.Context) error                { return nil }

func TestStuckCollectorNeverDelaysACall(t *testing.T) {
	t.Parallel()
	s := stuck{make(chan struct{})}
	b := setup{metadata: required, tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s))}.start(t)
	t.Cleanup(func() { close(s.release) })
	for range 200 {
		start := time.Now()
		if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "200" {
			t.Fatalf("answer: %q", answer)
		}
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Fatalf("a call took %s", took)
		}
	}
	waitFor(t, "every call to be logged", func() bool { return len(b.logs.calls(t)) == 200 })
}

func TestSpanTextIsValidAndShort(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	send(t, b.addr, get("/latest/%ff%fe/"+strings.Repeat("x", 4000)))
	b.stop(t)
	for _, s := range b.spans.GetSpans() {
		for key, value := range attributesOf(s) {
			if text, ok := value.(string); ok && (!utf8.ValidString(text) || len(text) > 512+64) {
				t.Errorf("%s of %q has %d bytes, valid: %v", key, s.Name, len(text), utf8.ValidString(text))
			}
		}
	}
}
