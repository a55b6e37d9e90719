package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// ScopeName is the instrumentation scope of the bridge's spans, metrics and logs.
const ScopeName = "github.com/imds-bridge/imds-bridge"

const serviceName = "imds-bridge"

// Options say what the environment cannot.
type Options struct {
	Version string     // of the program, becomes service.version
	Level   slog.Level // least severe log line that is written or exported
	Logs    io.Writer  // receives the JSON lines, from one goroutine; may block without harm
}

// Telemetry is the running SDK. Make it with [Start], end it with [Telemetry.Shutdown].
type Telemetry struct {
	lines   *lineWriter
	drops   *drops
	logger  *slog.Logger
	traces  trace.TracerProvider
	tracing bool
	meters  metric.MeterProvider
	metrics http.Handler
	self    *resource.Resource

	// Exports in flight end when abort is called; the SDK alone would wait for their timeouts.
	aborted context.Context
	abort   context.CancelFunc
	// shutdowns flush and stop what Start has begun.
	shutdowns []func(context.Context) error
	once      sync.Once
}

// Start reads the OTEL_* variables and starts what they ask for. No collector is dialled before
// it returns, so one that is down is no error; a variable with a value that cannot be used is.
// It takes over the SDK's own error and log output, which is global to the process.
func Start(ctx context.Context, o Options) (_ *Telemetry, err error) {
	t := &Telemetry{drops: newDrops(), traces: tracenoop.NewTracerProvider()}
	t.lines = newLineWriter(o.Logs, t.drops)
	t.aborted, t.abort = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			// The caller's context may have ended already, which must not cost the last lines.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = t.Shutdown(ctx)
		}
	}()

	local := jsonHandler(t.lines, o.Level)
	reportSDK(slog.New(redactor{local}))
	if err := CheckEnvironment(); err != nil {
		return nil, err
	}
	res, err := describe(ctx, o.Version, slog.New(redactor{local}))
	if err != nil {
		return nil, err
	}
	t.self = res
	if err := t.startMetrics(ctx, res); err != nil {
		return nil, err
	}
	if err := t.startTraces(ctx, res); err != nil {
		return nil, err
	}
	logs, err := t.startLogs(ctx, res)
	if err != nil {
		return nil, err
	}
	handler := local
	if logs != nil {
		export := otelslog.NewHandler(ScopeName, otelslog.WithLoggerProvider(logs), otelslog.WithVersion(o.Version))
		handler = slog.NewMultiHandler(local, leveled{export, o.Level})
	}
	t.logger = slog.New(redactor{handler})
	return t, nil
}

// describe names this process, and the task of ECS that it runs in. The variables OTEL_SERVICE_NAME and
// OTEL_RESOURCE_ATTRIBUTES win; in Kubernetes they bring what the downward API says.
// There is no EC2 detector: it would call the metadata service that we stand in front of.
func describe(ctx context.Context, version string, log *slog.Logger) (*resource.Resource, error) {
	var task []attribute.KeyValue
	if uri := os.Getenv(ecsVariable); uri != "" {
		var err error
		if task, err = detectECS(ctx, uri); err != nil {
			log.Warn("telemetry does not say all of where it comes from", "error", err.Error())
		}
	}
	res, err := resource.New(ctx,
		resource.WithHost(),
		resource.WithProcessPID(),
		resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName(serviceName), semconv.ServiceVersion(version)),
		resource.WithAttributes(task...),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("describe this process (is OTEL_RESOURCE_ATTRIBUTES a list of key=value?): %w", err)
	}
	return res, nil
}

// Resource is what spans, metrics and exported log lines say of this process and what it runs in, for a
// line of the log on standard error: there it stands once, and not on every line.
func (t *Telemetry) Resource() slog.Value {
	var attributes []slog.Attr
	for _, a := range t.self.Attributes() {
		if key := string(a.Key); !strings.HasPrefix(key, "telemetry.sdk.") {
			attributes = append(attributes, slog.Any(key, a.Value.AsInterface()))
		}
	}
	return slog.GroupValue(attributes...)
}

// Logger writes JSON lines, and exports them when a logs exporter is configured. It never blocks.
func (t *Telemetry) Logger() *slog.Logger { return t.logger }

// TracerProvider makes spans, which cost next to nothing when [Telemetry.Tracing] is false.
//
// End a span only where waiting is allowed, never while a caller waits for its answer: with the
// batch queue full (OTEL_BSP_MAX_QUEUE_SIZE) and the collector slow, End waits for room until
// the export gives up or [Telemetry.Shutdown] ends. So spans are lost in two places alone, the
// queue before End and a failed export, and both are counted.
func (t *Telemetry) TracerProvider() trace.TracerProvider { return t.traces }

// MeterProvider makes instruments that are shown by [Telemetry.MetricsHandler] and exported when
// a metrics exporter is configured.
func (t *Telemetry) MeterProvider() metric.MeterProvider { return t.meters }

// MetricsHandler shows all metrics in the Prometheus text format. It works without any variable
// and with OTEL_SDK_DISABLED=true too, since nothing leaves the process by itself.
func (t *Telemetry) MetricsHandler() http.Handler { return t.metrics }

// Tracing reports whether spans are exported; without, a caller may skip the work of making them.
func (t *Telemetry) Tracing() bool { return t.tracing }

// Dropped counts n items of a signal that were lost for a reason, in imds.telemetry.dropped.
func (t *Telemetry) Dropped(s Signal, r Reason, n int) { t.drops.add(s, r, n) }

// Shutdown flushes everything and returns when that is done or ctx ends, whichever is first.
// What a hanging collector did not take by then is dropped and counted. Nothing may be logged
// afterwards. A second call waits for the last log lines alone.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var err error
	t.once.Do(func() { err = t.flush(ctx) })
	return errors.Join(err, t.lines.Close(ctx))
}

// flush stops the SDK. It leaves a tenth of the time for the last log lines, which may tell of a
// failure here, and ends exports another tenth earlier, so that what they lose is still counted.
func (t *Telemetry) flush(ctx context.Context) error {
	ctx, cancel := earlier(ctx)
	defer cancel()
	patience, cancel := earlier(ctx)
	defer cancel()
	defer context.AfterFunc(patience, t.abort)()

	errs := make(chan error, len(t.shutdowns))
	for _, shutdown := range t.shutdowns {
		go func() { errs <- shutdown(ctx) }()
	}
	var err error
	for range t.shutdowns {
		// The SDK's Shutdown may outlast its context for a moment; ours may not.
		select {
		case e := <-errs:
			err = errors.Join(err, e)
		case <-ctx.Done():
			err = errors.Join(err, ctx.Err())
		}
	}
	t.abort()
	if err != nil {
		return fmt.Errorf("flush telemetry: %w", err)
	}
	return nil
}

// earlier returns a context that ends when nine tenths of the time left to ctx are over.
func earlier(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-time.Until(deadline)/10))
}
