package telemetry

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
)

func TestSDKErrorsAreRateLimited(t *testing.T) {
	logs := &logBuffer{}
	now := time.Unix(1e9, 0)
	r := &sdkReporter{log: slog.New(slog.NewJSONHandler(logs, nil)), kinds: make(map[string]*kind), now: func() time.Time { return now }}
	for i := range 100 {
		r.handleError(fmt.Errorf("traces export: dial 127.0.0.1:%d: refused", i))
	}
	r.handleError(errors.New("logs export: refused"))
	now = now.Add(quietTime)
	r.handleError(errors.New("traces export: dial 127.0.0.1:999: refused"))

	lines := logs.lines(t)
	if len(lines) != 3 {
		t.Fatalf("%d lines, want 3:\n%s", len(lines), logs)
	}
	if lines[0]["level"] != "WARN" || lines[0]["error"] != "traces export: dial 127.0.0.1:0: refused" {
		t.Errorf("first line: %v", lines[0])
	}
	if lines[2]["suppressed"] != 99.0 {
		t.Errorf("the line after the quiet time: %v, want 99 suppressed", lines[2])
	}
}

func TestSDKLogIsFiltered(t *testing.T) {
	logs := &logBuffer{}
	r := &sdkReporter{log: slog.New(slog.NewJSONHandler(logs, nil)), kinds: make(map[string]*kind), now: time.Now}
	log := logr.FromSlogHandler(sdkHandler{r})
	log.V(8).Info("debug")
	log.V(4).Info("info")
	log.V(1).Info("a warning", "n", 1)
	log.Error(errors.New("broken"), "an error")
	lines := logs.lines(t)
	if len(lines) != 2 || lines[0]["message"] != "a warning" || lines[0]["level"] != "WARN" || lines[0]["n"] != 1.0 ||
		lines[1]["message"] != "an error" || lines[1]["level"] != "ERROR" || !strings.Contains(fmt.Sprint(lines[1]), "broken") {
		t.Errorf("lines:\n%s", logs)
	}
}

func TestSDKKindsAreBounded(t *testing.T) {
	r := &sdkReporter{log: slog.New(slog.DiscardHandler), kinds: make(map[string]*kind), now: time.Now}
	for i := range 10 * maxKinds {
		r.handleError(fmt.Errorf("kind %d", i))
	}
	if len(r.kinds) > maxKinds {
		t.Errorf("%d kinds remembered", len(r.kinds))
	}
}
