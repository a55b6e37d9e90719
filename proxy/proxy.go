package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/elazarl/goproxy"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/policy"
)

// Peer is who made a redirected connection.
type Peer struct {
	Origin    caller.Origin
	OwnNetNS  bool           // the caller is in the bridge's own network namespace
	Ambiguous bool           // another namespace holds the same addresses and ports
	Original  netip.AddrPort // what the caller asked for
}

// Limits bound what callers can take of the bridge.
type Limits struct {
	Connections          int // at once, in all
	ConnectionsPerCaller int // at once, of one process
	HeaderBytes          int
	BodyBytes            int           // of a request
	ReadTimeout          time.Duration // for a connection's first byte, and for a request from its first
	WriteTimeout         time.Duration // for an answer
	IdleTimeout          time.Duration // between requests
}

// Options are what a Proxy works with.
type Options struct {
	// Lookup says whose connection this is. An error means nobody's that we may serve.
	Lookup func(client, listener netip.AddrPort) (Peer, error)
	// Caller names the process of a connection. Its result is not modified.
	Caller   func(caller.Origin) *caller.Caller
	Policy   policy.Policy
	Limits   Limits
	Upstream Upstream

	Logger         *slog.Logger
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	// Tracing tells that spans leave the process; without it none are made.
	Tracing bool
	// Dropped is told of telemetry that a full queue lost, by signal.
	Dropped func(signal string)
}

// Proxy serves redirected connections.
type Proxy struct {
	lookup   func(client, listener netip.AddrPort) (Peer, error)
	caller   func(caller.Origin) *caller.Caller
	policy   policy.Policy
	limits   Limits
	upstream *upstream
	tokens   *tokens
	engine   *goproxy.ProxyHttpServer
	server   *server
	slots    *slots
	metrics  *metrics
	reports  *reports
}

// New makes a Proxy. It serves once Serve is called.
func New(o Options) (*Proxy, error) {
	m, err := newMetrics(o.MeterProvider)
	if err != nil {
		return nil, fmt.Errorf("make metric instruments: %w", err)
	}
	p := &Proxy{
		lookup:  o.Lookup,
		caller:  o.Caller,
		policy:  o.Policy,
		limits:  o.Limits,
		slots:   newSlots(o.Limits.Connections, o.Limits.ConnectionsPerCaller),
		metrics: m,
		reports: newReports(o),
	}
	p.upstream = &upstream{o.Upstream}
	p.tokens = newTokens(p.upstream, m)
	p.engine = p.newEngine()
	p.server = newServer(p, o.Logger)
	return p, nil
}

// Serve takes connections from l until Shutdown, and does not return before. It closes l.
func (p *Proxy) Serve(l net.Listener) error {
	if err := p.server.serve(l, p.admit); err != nil {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// WarmUp says whether IMDS can be reached, and fetches the bridge's own token, so that the first
// call to upgrade need not wait for it. A policy that upgrades nothing needs none.
func (p *Proxy) WarmUp() error {
	deadline := time.Now().Add(p.upstream.Timeout)
	if p.policy.Mode != policy.UpgradeCalls && p.policy.ContainersV1 != policy.Upgrade {
		return p.upstream.reach(deadline)
	}
	_, err := p.tokens.get(deadline, &Call{})
	return err
}

// Shutdown stops accepting, waits for the calls under way until ctx ends, and reports what was
// not reported yet.
func (p *Proxy) Shutdown(ctx context.Context) error {
	err := p.server.shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("wait for calls under way: %w", err)
	}
	if closing := p.reports.close(ctx); closing != nil {
		err = errors.Join(err, fmt.Errorf("report the last calls: %w", closing))
	}
	return err
}
