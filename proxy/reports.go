package proxy

import (
	"context"
	"log/slog"
	"sync"

	"go.opentelemetry.io/otel/trace"
)

// reportsQueued bounds the calls that wait to be reported, and the traces that wait to be taken.
const reportsQueued = 4096

// reports tells of calls after they were answered: as a trace and as a log line. It never holds
// a call up: what finds no place is dropped and counted.
type reports struct {
	logger  *slog.Logger
	tracer  trace.Tracer // nil: no spans
	dropped func(signal string)

	mu     sync.RWMutex // guards closing calls against sends
	closed bool
	calls  chan *Call
	// A trace ends apart from its log line: an exporter whose queue is full holds up who ends a span.
	traces chan []endedSpan
	done   sync.WaitGroup
}

func newReports(o Options) *reports {
	r := &reports{
		logger:  o.Logger,
		dropped: o.Dropped,
		calls:   make(chan *Call, reportsQueued),
		traces:  make(chan []endedSpan, reportsQueued),
	}
	if o.Tracing {
		r.tracer = o.TracerProvider.Tracer("github.com/imds-bridge/imds-bridge/proxy")
	}
	r.done.Go(r.report)
	r.done.Go(r.endTraces)
	return r
}

func (r *reports) add(c *Call) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return
	}
	select {
	case r.calls <- c:
	default:
		r.dropped("logs")
		r.dropped("traces")
	}
}

func (r *reports) report() {
	defer close(r.traces)
	for c := range r.calls {
		ctx := context.Background()
		if r.tracer != nil {
			ctx = r.trace(ctx, c)
		}
		logCall(ctx, r.logger, c)
	}
}

func (r *reports) trace(ctx context.Context, c *Call) context.Context {
	ctx, spans := startTrace(ctx, r.tracer, c)
	select {
	case r.traces <- spans:
	default:
		r.dropped("traces")
	}
	return ctx
}

func (r *reports) endTraces() {
	for spans := range r.traces {
		for _, s := range spans {
			s.End(trace.WithTimestamp(s.at))
		}
	}
}

// close waits until all calls are reported, or until ctx ends.
func (r *reports) close(ctx context.Context) error {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.calls)
	}
	r.mu.Unlock()
	reported := make(chan struct{})
	go func() { r.done.Wait(); close(reported) }()
	select {
	case <-reported:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
