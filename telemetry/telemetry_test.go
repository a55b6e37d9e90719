package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const secretToken = "AQAEAK-1234567890abcdefghijklmnopqrstuvwxyzABCDEFGHIJK=="

// logBuffer is a log writer that tests may read meanwhile.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// lines decodes what was written, which must be one JSON object a line.
func (b *logBuffer) lines(t *testing.T) (lines []map[string]any) {
	t.Helper()
	for line := range strings.Lines(b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		lines = append(lines, m)
	}
	return lines
}

func start(t *testing.T) (*Telemetry, *logBuffer) {
	t.Helper()
	logs := &logBuffer{}
	tel, err := Start(t.Context(), Options{Version: "1.2.3", Level: slog.LevelInfo, Logs: logs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shutdown(t, tel, time.Second) })
	return tel, logs
}

// shutdown fails the test if Shutdown takes longer than it may, whatever it returns.
func shutdown(t *testing.T, tel *Telemetry, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	begin := time.Now()
	err := tel.Shutdown(ctx)
	if took := time.Since(begin); took > limit+500*time.Millisecond {
		t.Errorf("Shutdown took %v with a limit of %v", took, limit)
	}
	return err
}

func page(t *testing.T, tel *Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.MetricsHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("metrics page: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// dropped works after Shutdown as well, when the metrics page has lost its meters.
func dropped(tel *Telemetry, s Signal, r Reason) int {
	return int(tel.drops.counts[drop{s, r}].Load())
}

func endSpans(tel *Telemetry, n int) {
	tracer := tel.TracerProvider().Tracer("test")
	for range n {
		_, span := tracer.Start(context.Background(), "GET /latest/meta-data/")
		span.End()
	}
}

func TestWithoutVariablesNothingLeaves(t *testing.T) {
	c := startCollector(t)
	for name, variables := range map[string][]string{
		"none set":                nil,
		"empty counts as unset":   {"OTEL_TRACES_EXPORTER=", "OTEL_EXPORTER_OTLP_ENDPOINT=", "OTEL_SDK_DISABLED="},
		"exporters none":          {"OTEL_TRACES_EXPORTER=none", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none", "OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url},
		"disabled":                {"OTEL_SDK_DISABLED=true", "OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url},
		"disabled, other case":    {"OTEL_SDK_DISABLED=TRUE", "OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_ENDPOINT=" + c.url},
		"disabled, bad variables": {"OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=typo", "OTEL_EXPORTER_OTLP_ENDPOINT=typo"},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t, variables...)
			tel, logs := start(t)
			if tel.Tracing() {
				t.Error("Tracing() = true")
			}
			for _, signal := range []string{"TRACES", "METRICS", "LOGS"} {
				if exported(signal) {
					t.Errorf("%s would be exported", signal)
				}
			}
			endSpans(tel, 10)
			tel.Logger().Info("hello", "n", 1)
			tel.Logger().Debug("not at this level")
			if !strings.Contains(page(t, tel), "imds_telemetry_dropped_total") {
				t.Error("the metrics page is gone")
			}
			if err := shutdown(t, tel, time.Second); err != nil {
				t.Error(err)
			}
			lines := logs.lines(t)
			if len(lines) != 1 || lines[0]["msg"] != "hello" || lines[0]["n"] != 1.0 || lines[0]["level"] != "INFO" {
				t.Errorf("log lines: %v", lines)
			}
		})
	}
	if n := c.requests(); n != 0 {
		t.Errorf("%d requests reached the collector", n)
	}
}

func TestExport(t *testing.T) {
	for protocol, start := range map[string]func(*testing.T) *collector{
		"http/protobuf": startCollector,
		"grpc":          startCollectorGRPC,
	} {
		t.Run(protocol, func(t *testing.T) { testExport(t, protocol, start(t)) })
	}
}

func testExport(t *testing.T, protocol string, c *collector) {
	environment(t, "OTEL_EXPORTER_OTLP_PROTOCOL="+protocol, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.url, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test,host.name=web1")
	tel, logs := start(t)
	if !tel.Tracing() {
		t.Error("Tracing() = false")
	}
	ctx, span := tel.TracerProvider().Tracer("test").Start(context.Background(), "GET /latest/meta-data/")
	span.SetAttributes(
		attribute.String("http.route", "/latest/meta-data/"),
		attribute.StringSlice("process.command_args", []string{"curl", "-H", "X-aws-ec2-metadata-token: " + secretToken}))
	span.AddEvent("token", attributeOption(secretToken))
	tel.Logger().InfoContext(ctx, "call", "route", "/latest/meta-data/", "token", secretToken)
	tel.Logger().DebugContext(ctx, "not at this level")
	span.End()
	counter, err := tel.MeterProvider().Meter("test").Int64Counter("imds.test")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(ctx, 1)
	if err := shutdown(t, tel, 5*time.Second); err != nil {
		t.Fatal(err)
	}

	spans, resource := c.spans()
	if len(spans) != 1 || spans[0].Name != "GET /latest/meta-data/" {
		t.Fatalf("spans: %v", spans)
	}
	if strings.Contains(spans[0].String(), secretToken) {
		t.Errorf("a span carries a token: %v", spans[0])
	}
	if got := attributes(spans[0].Attributes)["http.route"]; got != "/latest/meta-data/" {
		t.Errorf("http.route = %q", got)
	}
	for key, want := range map[string]string{
		"service.name": "imds-bridge", "service.version": "1.2.3",
		"host.name": "web1", "deployment.environment.name": "test", "telemetry.sdk.language": "go",
	} {
		if resource[key] != want {
			t.Errorf("resource %s = %q, want %q", key, resource[key], want)
		}
	}
	if _, ok := resource["process.pid"]; !ok {
		t.Error("the resource has no process.pid")
	}
	records := c.records()
	if len(records) != 1 || records[0].Body.GetStringValue() != "call" {
		t.Fatalf("log records: %v", records)
	}
	if got := attributes(records[0].Attributes)["token"]; got != mask {
		t.Errorf("exported token = %q", got)
	}
	if !bytes.Equal(records[0].TraceId, spans[0].TraceId) {
		t.Error("the exported log record is not of the span's trace")
	}
	line := logs.lines(t)[0]
	if line["trace_id"] != fmt.Sprintf("%x", spans[0].TraceId) || line["span_id"] != fmt.Sprintf("%x", spans[0].SpanId) {
		t.Errorf("the log line does not name the span: %v", line)
	}
	names := c.metricNames()
	if !names["imds.test"] || !names["imds.telemetry.dropped"] {
		t.Errorf("exported metrics: %v", names)
	}
}

func TestOneSignalOnly(t *testing.T) {
	c := startCollector(t)
	environment(t, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+c.url+"/v1/traces", "OTEL_SERVICE_NAME=edge")
	tel, _ := start(t)
	tel.Logger().Info("stays here")
	endSpans(tel, 1)
	if err := shutdown(t, tel, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	spans, resource := c.spans()
	if len(spans) != 1 || resource["service.name"] != "edge" {
		t.Errorf("spans %v of %v", spans, resource)
	}
	if c.requests() != 1 {
		t.Errorf("%d requests, want that of the spans alone", c.requests())
	}
}

func TestSampler(t *testing.T) {
	c := startCollector(t)
	environment(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.url, "OTEL_TRACES_SAMPLER=always_off")
	tel, _ := start(t)
	endSpans(tel, 5)
	if err := shutdown(t, tel, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if spans, _ := c.spans(); len(spans) != 0 {
		t.Errorf("%d spans in spite of OTEL_TRACES_SAMPLER=always_off", len(spans))
	}
}

// The console exporter is bound to the standard output of the process, so this test runs itself again.
func TestConsole(t *testing.T) {
	if os.Getenv("OTEL_TRACES_EXPORTER") == "console" {
		tel, _ := start(t)
		endSpans(tel, 1)
		return
	}
	environment(t, "OTEL_TRACES_EXPORTER=console")
	out, err := exec.Command(os.Args[0], "-test.run=^TestConsole$").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(`"Name":"GET /latest/meta-data/"`)) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestBadVariables(t *testing.T) {
	for variables, want := range map[string]string{
		"OTEL_TRACES_EXPORTER=zipkin":                               `OTEL_TRACES_EXPORTER="zipkin" must be otlp, console or none`,
		"OTEL_LOGS_EXPORTER=otpl":                                   `OTEL_LOGS_EXPORTER="otpl"`,
		"OTEL_METRICS_EXPORTER=x":                                   `OTEL_METRICS_EXPORTER="x"`,
		"OTEL_TRACES_EXPORTER=otlp OTEL_EXPORTER_OTLP_PROTOCOL=udp": "grpc",
		"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317":                `OTEL_EXPORTER_OTLP_ENDPOINT="collector:4317" must be a URL`,
		"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=localhost":                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
		"OTEL_RESOURCE_ATTRIBUTES=no-value":                         "OTEL_RESOURCE_ATTRIBUTES",
		"OTEL_METRICS_EXPORTER=prometheus":                          "/metrics on admin.listen",
		"OTEL_EXPORTER_OTLP_PROTOCOL=grcp":                          `OTEL_EXPORTER_OTLP_PROTOCOL="grcp" must be grpc or http/protobuf`,
		"OTEL_EXPORTER_OTLP_HEADERS=key:s3cr3t":                     "OTEL_EXPORTER_OTLP_HEADERS must be a list like name=value",
		"OTEL_EXPORTER_OTLP_CERTIFICATE=/no/such.pem":               `OTEL_EXPORTER_OTLP_CERTIFICATE="/no/such.pem" must be a file`,
		"OTEL_TRACES_SAMPLER=bogus":                                 `OTEL_TRACES_SAMPLER="bogus"`,
	} {
		t.Run(variables, func(t *testing.T) {
			environment(t, strings.Fields(variables)...)
			logs := &logBuffer{}
			_, err := Start(t.Context(), Options{Logs: logs})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want it to hold %q", err, want)
			}
			if err != nil && strings.Contains(err.Error()+logs.String(), "s3cr3t") {
				t.Errorf("the value of a secret is shown: %v", err)
			}
		})
	}
}

func TestDroppedIgnoresTheUnknown(t *testing.T) {
	environment(t)
	tel, _ := start(t)
	tel.Dropped(Traces, QueueFull, 3)
	tel.Dropped(Traces, QueueFull, 4)
	tel.Dropped("metrics", "whim", 1)
	text := page(t, tel)
	for series, want := range map[string]bool{
		`imds_telemetry_dropped_total{reason="queue_full",signal="traces"} 7`:    true,
		`imds_telemetry_dropped_total{reason="export_failed",signal="traces"} 0`: true,
		`imds_telemetry_dropped_total{reason="queue_full",signal="logs"} 0`:      true,
		`imds_telemetry_dropped_total{reason="export_failed",signal="logs"} 0`:   true,
		`whim`: false,
	} {
		if strings.Contains(text, series) != want {
			t.Errorf("page holds %q: %v, want %v", series, !want, want)
		}
	}
}

func TestSeriesAreLimited(t *testing.T) {
	environment(t)
	tel, _ := start(t)
	counter, err := tel.MeterProvider().Meter("test").Int64Counter("imds.test")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxSeries {
		counter.Add(context.Background(), 1, metric.WithAttributes(attribute.Int("i", i)))
	}
	text := page(t, tel)
	if n := strings.Count(text, "\nimds_test_total{"); n != maxSeries {
		t.Errorf("%d series, want %d", n, maxSeries)
	}
	for _, name := range []string{`imds_test_total{otel_metric_overflow="true"}`, "go_goroutines", "process_open_fds", "target_info"} {
		if !strings.Contains(text, name) {
			t.Errorf("the page lacks %s", name)
		}
	}
}
