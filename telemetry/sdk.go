package telemetry

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
)

const (
	quietTime = 10 * time.Second // between two lines of one kind
	maxKinds  = 64               // remembered; beyond, the memory starts anew
	// sdkWarning is how the SDK marks a warning (logr's V(1)); what is chattier is left out.
	sdkWarning = slog.Level(-1)
)

// reportSDK sends the SDK's own errors and warnings to log, one line of each kind in quietTime.
// They are written, not exported: most tell of an export that failed.
func reportSDK(log *slog.Logger) {
	r := &sdkReporter{log: log, kinds: make(map[string]*kind), now: time.Now}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(r.handleError))
	otel.SetLogger(logr.FromSlogHandler(sdkHandler{r}))
}

type sdkReporter struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	kinds map[string]*kind
}

type kind struct {
	written    time.Time
	suppressed int
}

// handleError takes what comes before the first colon for the kind: "traces export" stays, the
// ports and times behind it change with every error.
func (r *sdkReporter) handleError(err error) {
	text := err.Error()
	name, _, _ := strings.Cut(text, ":")
	r.report(slog.LevelWarn, name, "error", text)
}

func (r *sdkReporter) report(level slog.Level, kind string, args ...any) {
	suppressed, ok := r.allow(kind)
	if !ok {
		return
	}
	if suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	r.log.Log(context.Background(), level, "telemetry trouble", args...)
}

// allow reports whether a line of the kind may be written now, and how many were not since the last.
func (r *sdkReporter) allow(name string) (suppressed int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.kinds[name]
	if k == nil {
		if len(r.kinds) >= maxKinds {
			clear(r.kinds)
		}
		k = &kind{}
		r.kinds[name] = k
	}
	now := r.now()
	if !k.written.IsZero() && now.Sub(k.written) < quietTime {
		k.suppressed++
		return 0, false
	}
	suppressed, k.suppressed, k.written = k.suppressed, 0, now
	return suppressed, true
}

// sdkHandler takes the SDK's internal log.
type sdkHandler struct{ *sdkReporter }

func (sdkHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= sdkWarning }

func (h sdkHandler) Handle(_ context.Context, record slog.Record) error {
	args := []any{"message", record.Message}
	record.Attrs(func(a slog.Attr) bool {
		args = append(args, a)
		return true
	})
	h.report(max(record.Level, slog.LevelWarn), record.Message, args...)
	return nil
}

// The SDK derives no loggers from the one it is given.
func (h sdkHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h sdkHandler) WithGroup(string) slog.Handler      { return h }
