package proxy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// reportsQueued bounds the calls that wait to be reported, and the traces that wait to be taken.
const reportsQueued = 4096

// tracesPatience bounds the wait at the end for an exporter that takes no more traces.
const tracesPatience = time.Second

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
	logged chan struct{} // closed when all calls are
	traced chan struct{} // closed when all traces are ended
	last   sync.Once     // guards the wait for traced
}

func newReports(o Options) *reports {
	r := &reports{
		logger:  o.Logger,
		dropped: o.Dropped,
		calls:   make(chan *Call, reportsQueued),
		traces:  make(chan []endedSpan, reportsQueued),
		logged:  make(chan struct{}),
		traced:  make(chan struct{}),
	}
	if o.Tracing {
		r.tracer = o.TracerProvider.Tracer("github.com/imds-bridge/imds-bridge/proxy")
	}
	go r.report()
	go r.endTraces()
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
	defer close(r.logged)
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
	defer close(r.traced)
	for spans := range r.traces {
		for _, s := range spans {
			s.End(trace.WithTimestamp(s.at))
		}
	}
}

// close waits until all calls are logged, or until ctx ends. Traces that the exporter does not take
// within a moment of that are dropped and counted: a collector that hangs is no failure of ours.
func (r *reports) close(ctx context.Context) error {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.calls)
	}
	r.mu.Unlock()
	select {
	case <-r.logged:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.last.Do(func() {
		select {
		case <-r.traced:
		case <-time.After(tracesPatience):
		case <-ctx.Done():
		}
		for range r.traces {
			r.dropped("traces")
		}
	})
	return nil
}
