package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/elazarl/goproxy"
	"go.opentelemetry.io/otel/metric"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/report"
)

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

// Lookup says whose an accepted connection is. Where it takes time to find out, peer is what is likely of where it comes from
// and what it asked for, and rest waits for all of it, or for the error. It is called once. Nil says that peer is all.
type Lookup func(accepted net.Conn) (peer caller.Peer, rest func() (caller.Peer, error), err error)

// Options are what a Proxy works with.
type Options struct {
	// Lookup says whose connection this is. An error means nobody's that we may serve.
	Lookup Lookup
	// Caller names the process of a connection. Its result is not modified.
	Caller   func(caller.Origin) *caller.Caller
	Policy   policy.Policy
	Limits   Limits
	Upstream Upstream
	// Spare gives up descriptors that are not needed. It is called when there are no more. Optional.
	Spare func()

	// Reporter is told of every call. It is the caller's to close, after Shutdown.
	Reporter      *report.Reporter
	Logger        *slog.Logger
	MeterProvider metric.MeterProvider
}

// Proxy serves redirected connections.
type Proxy struct {
	lookup   Lookup
	caller   func(caller.Origin) *caller.Caller
	policy   policy.Policy
	limits   Limits
	upstream *upstream
	tokens   *tokens
	engine   *goproxy.ProxyHttpServer
	server   *server
	slots    *slots
	probes   probes
	metrics  *metrics
	reporter *report.Reporter
}

// New makes a Proxy. It serves once Serve is called.
func New(o Options) (*Proxy, error) {
	m, err := newMetrics(o.MeterProvider)
	if err != nil {
		return nil, fmt.Errorf("make metric instruments: %w", err)
	}
	p := &Proxy{
		lookup:   o.Lookup,
		caller:   o.Caller,
		policy:   o.Policy,
		limits:   o.Limits,
		slots:    newSlots(o.Limits.Connections, o.Limits.ConnectionsPerCaller, o.Spare),
		metrics:  m,
		reporter: o.Reporter,
	}
	p.upstream = &upstream{o.Upstream, p.slots.makeRoom}
	p.tokens = newTokens(p.upstream, m, o.Reporter.Legs)
	p.engine = p.newEngine()
	p.server = newServer(p, o.Logger)
	return p, nil
}

// Serve takes connections from l until Shutdown, and does not return before. It closes l.
func (p *Proxy) Serve(l net.Listener) error {
	if err := p.server.serve(l); err != nil {
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
	_, err := p.tokens.get(deadline, &report.Call{})
	return err
}

// Pause leaves new connections to wait in the backlog, until Resume, or until another process that
// has the listener too takes them. Those that were accepted are served on.
func (p *Proxy) Pause() { p.server.pause() }

// Resume ends a Pause.
func (p *Proxy) Resume() { p.server.resume() }

// Shutdown stops accepting, and waits for the calls under way until ctx ends.
func (p *Proxy) Shutdown(ctx context.Context) error {
	if err := p.server.shutdown(ctx); err != nil {
		return fmt.Errorf("wait for calls under way: %w", err)
	}
	return nil
}
