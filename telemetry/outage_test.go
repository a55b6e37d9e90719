package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

func attributeOption(value string) trace.EventOption {
	return trace.WithAttributes(attribute.String("http.request.header.x-aws-ec2-metadata-token", value))
}

// maxWait is what one log line or one End may take. A collector's part of it would be seconds.
const maxWait = 10 * time.Millisecond

// quickly calls f until it has been fast enough once: a busy machine may stop us, a blocked queue
// would stop us every time.
func quickly(t *testing.T, what string, f func()) {
	t.Helper()
	var took time.Duration
	for range 5 {
		begin := time.Now()
		f()
		if took = time.Since(begin); took <= maxWait {
			return
		}
	}
	t.Errorf("%s took %v", what, took)
}

func TestOutageOfTheCollector(t *testing.T) {
	for _, outage := range []struct {
		name    string
		address func(*testing.T) string
	}{{"dead", dead}, {"hanging", hang}} {
		for _, protocol := range []string{"http/protobuf", "grpc"} {
			t.Run(outage.name+" "+protocol, func(t *testing.T) {
				environment(t,
					"OTEL_EXPORTER_OTLP_ENDPOINT=http://"+outage.address(t),
					"OTEL_EXPORTER_OTLP_PROTOCOL="+protocol,
					"OTEL_BSP_SCHEDULE_DELAY=10", "OTEL_BLRP_SCHEDULE_DELAY=10", "OTEL_METRIC_EXPORT_INTERVAL=10")
				tel, logs := start(t)
				const rounds, each = 10, 100
				for range rounds {
					quickly(t, "logging", func() { tel.Logger().Info("call") })
					quickly(t, "ending a span", func() { endSpans(tel, 1) })
					endSpans(tel, each-1)
					time.Sleep(5 * time.Millisecond)
				}
				page(t, tel)
				err := shutdown(t, tel, time.Second)
				if err == nil {
					t.Error("Shutdown does not tell of what was lost")
				}
				if n := dropped(tel, Traces, ExportFailed); n < rounds*each {
					t.Errorf("%d spans counted as lost, want %d", n, rounds*each)
				}
				if n := dropped(tel, Logs, ExportFailed); n < rounds {
					t.Errorf("%d log records counted as lost, want %d", n, rounds)
				}
				if n := strings.Count(logs.String(), `"msg":"call"`); n < rounds {
					t.Errorf("%d of %d log lines written", n, rounds)
				}
				if n := strings.Count(logs.String(), "telemetry trouble"); n > 10 {
					t.Errorf("%d lines about the outage:\n%s", n, logs)
				}
			})
		}
	}
}

// A full span queue holds End back, and Shutdown must let go of it.
func TestShutdownReleasesEnd(t *testing.T) {
	environment(t, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://"+hang(t), "OTEL_BSP_MAX_QUEUE_SIZE=8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=4")
	tel, _ := start(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		endSpans(tel, 100)
	}()
	select {
	case <-done:
		t.Error("100 spans went into a queue of 8: they are lost uncounted")
	case <-time.After(100 * time.Millisecond):
	}
	_ = shutdown(t, tel, 300*time.Millisecond)
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("End still waits after Shutdown")
	}
}

func TestFullQueueOfExportedLogs(t *testing.T) {
	environment(t, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=http://"+hang(t), "OTEL_BLRP_MAX_QUEUE_SIZE=100", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE=10")
	tel, logs := start(t)
	for range 1000 {
		tel.Logger().Info("call")
	}
	if n := dropped(tel, Logs, QueueFull); n != 900 {
		t.Errorf("%d records counted as dropped, want 900", n)
	}
	_ = shutdown(t, tel, 500*time.Millisecond)
	if n := dropped(tel, Logs, ExportFailed); n != 100 {
		t.Errorf("%d records counted as failed, want 100", n)
	}
	if n := strings.Count(logs.String(), `"msg":"call"`); n != 1000 {
		t.Errorf("%d lines written, want all 1000", n)
	}
}

// blockedWriter is a pipe whose reader has stopped.
type blockedWriter struct{ release chan struct{} }

func (w blockedWriter) Write(p []byte) (int, error) {
	<-w.release
	return len(p), nil
}

func TestBlockedLogWriter(t *testing.T) {
	environment(t)
	w := blockedWriter{make(chan struct{})}
	tel, err := Start(t.Context(), Options{Level: slog.LevelInfo, Logs: w})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * maxLines {
		tel.Logger().Info("call")
	}
	quickly(t, "logging", func() { tel.Logger().Info("call") })
	// One batch may have left the queue for the writer that blocks.
	if n := dropped(tel, Logs, QueueFull); n == 0 || n > maxLines+5 {
		t.Errorf("%d lines counted as dropped, want about %d", n, maxLines)
	}
	if err := shutdown(t, tel, 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown with a blocked writer: %v", err)
	}
	close(w.release)
	if err := shutdown(t, tel, 5*time.Second); err != nil {
		t.Errorf("second Shutdown: %v", err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestBrokenLogWriter(t *testing.T) {
	environment(t)
	tel, err := Start(t.Context(), Options{Level: slog.LevelInfo, Logs: brokenWriter{}})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		tel.Logger().Info("call")
	}
	if err := shutdown(t, tel, 5*time.Second); err != nil {
		t.Error(err)
	}
	if n := dropped(tel, Logs, ExportFailed); n != 10 {
		t.Errorf("%d lines counted as lost, want 10", n)
	}
}

// Lines that pile up behind a slow writer are written in order and whole.
func TestLinesAreWhole(t *testing.T) {
	environment(t)
	tel, logs := start(t)
	const n = maxLines / 2
	for i := range n {
		tel.Logger().Info("call", "i", i, "text", strings.Repeat("x", i%500), "newline", "a\nb")
	}
	if err := shutdown(t, tel, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	lines := logs.lines(t)
	if len(lines) != n {
		t.Fatalf("%d lines, want %d", len(lines), n)
	}
	for i, line := range lines {
		if line["i"] != float64(i) {
			t.Fatalf("line %d is that of call %v", i, line["i"])
		}
	}
}
