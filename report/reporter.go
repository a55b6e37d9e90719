package report

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/imds-bridge/imds-bridge/attribution"
	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/imds/client"
)

// reportsQueued bounds the calls that wait to be reported, and the traces that wait to be taken.
const reportsQueued = 4096

// reportEvery is how long reports gather: waking a goroutine for each call costs the call as much
// as a third of what it adds (docs/performance.md).
const reportEvery = 5 * time.Millisecond

// tracesPatience bounds the wait at the end for an exporter that takes no more traces.
const tracesPatience = time.Second

// Options are what a Reporter works with.
type Options struct {
	Logger         *slog.Logger
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	// Tracing tells that spans leave the process; without it none are made.
	Tracing bool
	// Attribute says what is known of a call beside its caller. Optional. It does not wait.
	Attribute func(*Call) *attribution.Attribution
	// Dropped is told of telemetry that a full queue lost, by signal.
	Dropped func(signal string)
}

// Reporter tells of calls after they were answered: in metrics, as a trace and as a log line. It
// never holds a call up: what finds no place is dropped and counted.
type Reporter struct {
	logger  *slog.Logger
	tracer  trace.Tracer // nil: no spans
	metrics *metrics
	dropped func(signal string)

	attribute func(*Call) *attribution.Attribution
	known     map[sitter]portrait // touched by report alone

	mu     sync.RWMutex // guards closing calls against sends
	closed bool
	calls  chan *Call
	// closing is closed with calls.
	closing chan struct{}
	// A trace ends apart from its log line: an exporter whose queue is full holds up who ends a span.
	traces chan []endedSpan
	logged chan struct{} // closed when all calls are
	traced chan struct{} // closed when all traces are ended
	last   sync.Once     // guards the wait for traced
}

// New makes a Reporter. It must be closed.
func New(o Options) (*Reporter, error) {
	m, err := newMetrics(o.MeterProvider)
	if err != nil {
		return nil, fmt.Errorf("make metric instruments: %w", err)
	}
	r := &Reporter{
		logger:    o.Logger,
		metrics:   m,
		dropped:   o.Dropped,
		calls:     make(chan *Call, reportsQueued),
		traces:    make(chan []endedSpan, reportsQueued),
		known:     map[sitter]portrait{},
		attribute: o.Attribute,
		closing:   make(chan struct{}),
		logged:    make(chan struct{}),
		traced:    make(chan struct{}),
	}
	if o.Tracing {
		r.tracer = o.TracerProvider.Tracer("github.com/imds-bridge/imds-bridge/report")
	}
	go r.report()
	go r.endTraces()
	return r, nil
}

// Call reports a call that has ended. The caller does not change it any more.
func (r *Reporter) Call(c *Call) {
	r.metrics.record(c)
	r.Connection(c)
}

// Legs counts exchanges with IMDS that were made for no call, or for many.
func (r *Reporter) Legs(legs []Leg) { r.metrics.recordLegs(legs) }

// Connection tells of a connection on which no request was served: in the log and as a trace, and
// not in the metrics of requests.
func (r *Reporter) Connection(c *Call) {
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

func (r *Reporter) report() {
	defer close(r.logged)
	defer close(r.traces)
	pause := time.NewTimer(reportEvery)
	defer pause.Stop()
	for c := range r.calls {
		ctx := context.Background()
		known := r.attributed(c)
		who := r.portrait(c, known)
		if r.tracer != nil {
			attributes := who.attributes
			if len(known.Waste) > 0 {
				attributes = append(slices.Clip(attributes), attribute.StringSlice("imds.waste", findings(known.Waste)))
			}
			ctx = r.trace(ctx, c, attributes)
		}
		logCall(ctx, who.logger, c, known)
		if len(r.calls) > 0 {
			continue
		}
		pause.Reset(reportEvery)
		select {
		case <-pause.C:
		case <-r.closing:
		}
	}
}

// attributed is what is known of a call; nothing where nobody is asked.
func (r *Reporter) attributed(c *Call) *attribution.Attribution {
	if r.attribute == nil {
		return attribution.Unknown
	}
	known := r.attribute(c)
	if c.Kind != 0 {
		r.metrics.recordAttributed(c, known)
	}
	return known
}

func (r *Reporter) trace(ctx context.Context, c *Call, who []attribute.KeyValue) context.Context {
	ctx, spans := startTrace(ctx, r.tracer, c, who)
	select {
	case r.traces <- spans:
	default:
		r.dropped("traces")
	}
	return ctx
}

// person is a caller as calls show it.
type person struct {
	*caller.Caller
	*attribution.Who
	hostNetwork, ambiguous bool
}

// hasProcess is false where a redirector knows of the socket alone: what a process would say is left out
// then, for zero would be root's.
func (p person) hasProcess() bool { return p.PID != 0 }

// hasSocket is false where not even that was found: who made it is not known either.
func (p person) hasSocket() bool { return p.hasProcess() || p.NetNS != 0 }

// portrait is what every report of a caller's calls says of it, made once: the log line's part is
// already JSON.
type portrait struct {
	logger     *slog.Logger
	attributes []attribute.KeyValue
}

// portraitsKept bounds the portraits; with one more, all are made anew.
const portraitsKept = 1024

// sitter is whom a portrait is of: a caller, and the client that it calls by.
type sitter struct {
	person
	client *client.Client
	advice *client.Advice
}

func (r *Reporter) portrait(c *Call, known *attribution.Attribution) portrait {
	who := sitter{person{c.Caller, known.Who, c.Peer.OwnNetNS, c.Peer.Ambiguous}, known.Client, known.Advice}
	p, ok := r.known[who]
	if ok {
		return p
	}
	p.logger = r.logger
	if c.Caller != nil {
		p.logger = p.logger.With("caller", callerValue(who.person))
		if r.tracer != nil {
			p.attributes = callerAttributes(who.person)
		}
	}
	if values := clientValues(known); len(values) > 0 {
		p.logger = slog.New(p.logger.Handler().WithAttrs(values))
	}
	if r.tracer != nil {
		p.attributes = append(p.attributes, clientAttributes(known)...)
	}
	if len(r.known) >= portraitsKept {
		clear(r.known)
	}
	r.known[who] = p
	return p
}

func (r *Reporter) endTraces() {
	defer close(r.traced)
	for spans := range r.traces {
		for _, s := range spans {
			s.End(trace.WithTimestamp(s.at))
		}
	}
}

// Close waits until all calls are logged, or until ctx ends. Traces that the exporter does not take
// within a moment of that are dropped and counted: a collector that hangs is no failure of ours.
func (r *Reporter) Close(ctx context.Context) error {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.calls)
		close(r.closing)
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
