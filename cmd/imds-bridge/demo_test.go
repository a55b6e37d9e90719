package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// exported is the trace of one upgraded call of process 7, and the server span of another.
func exported() *collector.ExportTraceServiceRequest {
	span := func(id, parent, name string, kind tracepb.Span_SpanKind, start, end time.Duration) *tracepb.Span {
		return &tracepb.Span{
			TraceId: []byte("trace-of-seven.."), SpanId: []byte(id), ParentSpanId: []byte(parent), Name: name, Kind: kind,
			StartTimeUnixNano: uint64(start), EndTimeUnixNano: uint64(end),
		}
	}
	server := span("server..", "remote..", "GET /x", tracepb.Span_SPAN_KIND_SERVER, 1*time.Millisecond, 4*time.Millisecond)
	server.Attributes = []*common.KeyValue{
		{Key: "process.pid", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: 7}}},
		{Key: "imds.upgraded", Value: &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: true}}},
	}
	other := span("other...", "", "GET /y", tracepb.Span_SPAN_KIND_SERVER, 0, 1)
	other.TraceId = []byte("trace-of-another")
	return &collector.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{
		span("upstream", "server..", "GET", tracepb.Span_SPAN_KIND_CLIENT, 2500*time.Microsecond, 3900*time.Microsecond),
		span("token...", "server..", "PUT /latest/api/token", tracepb.Span_SPAN_KIND_CLIENT, 2*time.Millisecond, 2400*time.Microsecond),
		other, server,
	}}}}}}
}

func TestSinkGathersTraceOfACall(t *testing.T) {
	t.Parallel()
	plain, err := proto.Marshal(exported())
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(plain)
	z.Close()
	for encoding, body := range map[string][]byte{"": plain, "gzip": zipped.Bytes()} {
		sink := &spanSink{}
		req := httptest.NewRequest(http.MethodPost, "/v1/traces", bytes.NewReader(body))
		req.Header.Set("Content-Encoding", encoding)
		resp := httptest.NewRecorder()
		sink.ServeHTTP(resp, req)
		if resp.Code != http.StatusOK {
			t.Fatalf("encoding %q: status %d: %s", encoding, resp.Code, resp.Body)
		}
		trace, err := sink.traceOf(t.Context(), 7)
		if err != nil {
			t.Fatal(err)
		}
		if trace.ID != "74726163652d6f662d736576656e2e2e" || !trace.upgraded {
			t.Errorf("trace %s, upgraded %t", trace.ID, trace.upgraded)
		}
		want := []string{
			"GET /x                    server    3000 µs",
			"├─ PUT /latest/api/token  client     400 µs",
			"└─ GET                    client    1400 µs",
		}
		if got := trace.tree(); !slices.Equal(got, want) {
			t.Errorf("tree:\n%s", strings.Join(got, "\n"))
		}
	}
}

func TestSinkRefusesWhatIsNotOTLP(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"", "gzip"} {
		req := httptest.NewRequest(http.MethodPost, "/v1/traces", strings.NewReader("\x01 not a message"))
		req.Header.Set("Content-Encoding", encoding)
		resp := httptest.NewRecorder()
		(&spanSink{}).ServeHTTP(resp, req)
		if resp.Code != http.StatusBadRequest {
			t.Errorf("encoding %q: status %d", encoding, resp.Code)
		}
	}
}

func TestTraceOfGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&spanSink{}).traceOf(ctx, 7); err == nil {
		t.Error("found a trace in an empty sink")
	}
}

func TestParseCallLine(t *testing.T) {
	t.Parallel()
	line := `{"level":"INFO","msg":"call","caller":{"pid":7,"ppid":1,"comm":"curl","exe":"/usr/bin/curl","uid":33,"gid":33,` +
		`"user":"www-data","container_id":"abc","ancestors":[{"pid":1,"comm":"init","exe":"/sbin/init"}]}}`
	got, ok := parseCallLine(line)
	want := demoCaller{
		PID: 7, Exe: "/usr/bin/curl", Comm: "curl", UID: 33,
		Ancestors: []demoAncestor{{PID: 1, Comm: "init", Exe: "/sbin/init"}},
		user:      "www-data", container: "abc",
	}
	if !ok || !reflect.DeepEqual(got.Caller, want) || got.raw != line {
		t.Errorf("got %+v, %t", got, ok)
	}
	for _, line := range []string{`{"level":"INFO","msg":"ready"}`, "plain text", `{"caller":7}`} {
		if _, ok := parseCallLine(line); ok {
			t.Errorf("took %s for a call", line)
		}
	}
}

func TestBridgeEnvDropsTheUsersSettings(t *testing.T) {
	t.Parallel()
	env := bridgeEnv([]string{"PATH=/bin", "IMDS_BRIDGE_MODE=enforce", "OTEL_SDK_DISABLED=true", "NOTIFY_SOCKET=/x"})
	if env[0] != "PATH=/bin" {
		t.Errorf("PATH is gone: %v", env)
	}
	for _, e := range env[1:] {
		if !strings.HasPrefix(e, "OTEL_") || e == "OTEL_SDK_DISABLED=true" {
			t.Errorf("%s is passed on", e)
		}
	}
}

func TestDemoFailsOnAnyOtherOutcome(t *testing.T) {
	t.Parallel()
	good := func() *demoResult {
		r := &demoResult{Upgraded: true}
		r.Direct.Status, r.Bridged.Status = 401, 200
		r.Container.Default.Status, r.Container.Upgraded.Status = 401, 200
		return r
	}
	if err := good().check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*demoResult){
		"direct":             func(r *demoResult) { r.Direct.Status = 200 },
		"bridged":            func(r *demoResult) { r.Bridged.Status = 401 },
		"upgraded":           func(r *demoResult) { r.Upgraded = false },
		"container":          func(r *demoResult) { r.Container.Default.Status = 200 },
		"container upgraded": func(r *demoResult) { r.Container.Upgraded.Status = 401 },
	} {
		r := good()
		spoil(r)
		if r.check() == nil {
			t.Errorf("%s: passes", name)
		}
	}
}

func TestDemoJSONHasThePromisedKeys(t *testing.T) {
	t.Parallel()
	r := &demoResult{
		Caller: demoCaller{Ancestors: []demoAncestor{{PID: 1}}},
		Trace:  demoTrace{Spans: []demoSpan{{Name: "GET"}}},
	}
	var out bytes.Buffer
	if err := r.print(&out, "json"); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	object := func(path ...string) map[string]any {
		at := got
		for _, key := range path {
			at, _ = at[key].(map[string]any)
		}
		return at
	}
	span, _ := object("trace")["spans"].([]any)[0].(map[string]any)
	for name, tt := range map[string]struct {
		object map[string]any
		keys   []string
	}{
		"top":     {got, []string{"bridged", "caller", "container", "direct", "redirector", "trace", "upgraded"}},
		"direct":  {object("direct"), []string{"status"}},
		"bridged": {object("bridged"), []string{"body", "status"}},
		"caller":  {object("caller"), []string{"ancestors", "comm", "exe", "pid", "uid"}},
		"trace":   {object("trace"), []string{"spans", "trace_id"}},
		"span":    {span, []string{"duration_us", "kind", "name"}},
	} {
		var keys []string
		for k := range tt.object {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if !slices.Equal(keys, tt.keys) {
			t.Errorf("%s has %v, want %v", name, keys, tt.keys)
		}
	}
}

func TestTextIsPlainWithoutATerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := (&demoResult{}).print(&out, "text"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("escapes in %q", out.String())
	}
	if !strings.Contains((&demoResult{}).text(true), "\x1b[1m") {
		t.Error("no bold on a terminal")
	}
}
