package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/imds-bridge/imds-bridge/admin"
	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/proxy"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/report"
	"github.com/imds-bridge/imds-bridge/telemetry"
)

// bridge is what `run` puts together: listeners, proxy and hook, and how they meet.
type bridge struct {
	config    config.Config
	telemetry *telemetry.Telemetry
	log       *slog.Logger

	listeners []net.Listener
	admin     *admin.Server
	cgroup    redirect.Cgroup
	proxy     *proxy.Proxy
	check     *selfCheck
	reporter  *report.Reporter
	attached  atomic.Pointer[redirector] // nil before attach
	pulse     pulse
	ready     atomic.Bool
	failed    chan error // ends the run
}

// newBridge listens and serves; nothing is redirected yet.
func newBridge(ctx context.Context, c config.Config, t *telemetry.Telemetry) (_ *bridge, err error) {
	b := &bridge{
		config: c, telemetry: t, log: t.Logger(),
		check:  newSelfCheck(),
		failed: make(chan error, 4),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if err := b.findCgroup(); err != nil {
		return nil, err
	}
	if err := b.newProxy(); err != nil {
		return nil, err
	}
	if err := b.listen(ctx); err != nil {
		return nil, err
	}
	return b, b.serveAdmin()
}

func (b *bridge) findCgroup() (err error) {
	if b.config.Redirect.Cgroup != "" {
		b.cgroup.Path = b.config.Redirect.Cgroup
		return nil
	}
	b.cgroup, err = redirect.FindCgroup()
	return err
}

func (b *bridge) newProxy() error {
	callers, err := caller.NewReader(caller.Options{Size: b.config.Limits.Callers})
	if err != nil {
		return err
	}
	c, t := b.config, b.telemetry
	b.reporter, err = report.New(report.Options{
		Logger:         b.log,
		TracerProvider: t.TracerProvider(),
		MeterProvider:  t.MeterProvider(),
		Tracing:        t.Tracing(),
		Dropped: func(signal string) {
			t.Dropped(telemetry.Signal(signal), telemetry.QueueFull, 1)
		},
	})
	if err != nil {
		return err
	}
	connections, lowered, err := fitOpenFiles(c.Limits.Connections)
	if err != nil {
		return err
	}
	if lowered {
		b.log.Warn("fewer connections at once than limits.connections: the process may not open more files (systemd: LimitNOFILE=)", "connections", connections)
	}
	b.proxy, err = proxy.New(proxy.Options{
		Lookup: b.lookup,
		Caller: callers.Caller,
		Policy: policy.Policy{
			Mode:             policy.Mode(c.Mode),
			ContainersV1:     policy.Verdict(c.Containers.V1),
			ContainersTokens: policy.Tokens(c.Containers.Tokens),
		},
		Limits: proxy.Limits{
			Connections:          connections,
			ConnectionsPerCaller: c.Limits.ConnectionsPerCaller,
			HeaderBytes:          c.Limits.HeaderBytes,
			BodyBytes:            c.Limits.BodyBytes,
			ReadTimeout:          c.Limits.ReadTimeout,
			WriteTimeout:         c.Limits.WriteTimeout,
			IdleTimeout:          c.Limits.IdleTimeout,
		},
		Upstream: proxy.Upstream{
			IPv4:          c.Upstream.IPv4,
			IPv6:          c.Upstream.IPv6,
			Timeout:       c.Upstream.Timeout,
			Prepare:       func(fd int) error { return redirect.Exempt(fd, uint32(c.Redirect.Mark)) },
			WatchHopLimit: b.watchHopLimit,
		},
		Reporter:      b.reporter,
		Logger:        b.log,
		MeterProvider: t.MeterProvider(),
	})
	return err
}

// lookup says who made a connection: what redirect knows, in the proxy's words.
func (b *bridge) lookup(accepted net.Conn) (caller.Peer, error) {
	r := b.attached.Load()
	if r == nil {
		return caller.Peer{}, redirect.ErrNoRecord
	}
	c, err := (*r).Lookup(accepted)
	if err != nil {
		return caller.Peer{}, err
	}
	b.check.saw(c)
	return caller.Peer{
		Origin: caller.Origin{
			PID: c.PID, TID: c.TID, PPID: c.PPID,
			UID: c.UID, GID: c.GID,
			Comm:        c.Comm,
			Started:     c.Started,
			ExecID:      c.ExecID,
			CgroupID:    c.CgroupID,
			NetNSCookie: c.NetNSCookie,
			NetNS:       c.NetNS,
		},
		OwnNetNS:  c.OwnNetNS,
		Ambiguous: c.Ambiguous,
		Original:  c.Original,
	}, nil
}

func (b *bridge) listen(ctx context.Context) error {
	r := &b.config.Redirect
	if err := b.listenOn(ctx, r.Listen); err != nil {
		return err
	}
	if !r.Listen6.IsValid() {
		return nil
	}
	if !redirect.HasIPv6() {
		b.log.Warn("IPv6 is off on this host: the IPv6 endpoint is not redirected", "listen6", r.Listen6.String())
		r.Listen6 = netip.AddrPort{}
		return nil
	}
	return b.listenOn(ctx, r.Listen6)
}

func (b *bridge) listenOn(ctx context.Context, at netip.AddrPort) error {
	l, err := redirect.Listen(ctx, at)
	if err != nil {
		return err
	}
	b.listeners = append(b.listeners, l)
	go func() {
		// Not l, which Serve would close before the last calls are answered, and with it their address.
		if err := b.proxy.Serve(l.TCPListener); err != nil {
			b.failed <- err
		}
	}()
	return nil
}

func (b *bridge) serveAdmin() error {
	if b.config.Admin.Listen == "" {
		return nil
	}
	l, err := admin.Listen(b.config.Admin.Listen)
	if err != nil {
		return err
	}
	b.admin = admin.New(admin.Options{Ready: b.isReady, Metrics: b.telemetry.MetricsHandler(), Logger: b.log})
	go func() {
		if err := b.admin.Serve(l); err != nil {
			b.failed <- err
		}
	}()
	return nil
}

// attach redirects from now on.
func (b *bridge) attach() error {
	attached, err := b.newRedirector()
	if err != nil {
		b.attached.Store(nil)
		return err
	}
	b.pulse = pulse{
		limit:  b.config.Redirect.Heartbeat,
		probe:  b.proxy.Probe,
		beat:   attached.Beat,
		failed: func(err error) { b.failed <- err },
		at:     b.listeners,
	}
	b.pulse.start()
	return attached.Observe(b.telemetry.MeterProvider())
}

// warmUp fetches the token that the first v1 call would else wait for, and says when IMDS cannot
// be reached.
func (b *bridge) warmUp() {
	if err := b.proxy.WarmUp(); err != nil {
		b.log.Warn("IMDS does not answer the bridge: calls get 503 until it does (is HttpEndpoint enabled? is there a route to upstream.ipv4?)", "error", err.Error())
	}
}

func (b *bridge) setReady() { b.ready.Store(true) }

func (b *bridge) isReady() (ready bool, reason string) {
	switch {
	case !b.ready.Load():
		return false, "redirection is not proven yet, or not any longer"
	case !b.pulse.isAlive():
		return false, "the proxy does not answer the bridge's own calls: workloads' calls go on without it"
	}
	return true, "a connection to IMDS came to the bridge"
}

// drain stops redirecting, then waits for the calls under way.
func (b *bridge) drain() error {
	b.ready.Store(false)
	detached := (*b.attached.Load()).Detach()
	b.pulse.end()
	ctx, cancel := context.WithTimeout(context.Background(), drainPatience)
	defer cancel()
	return errors.Join(detached, b.proxy.Shutdown(ctx))
}

// watchHopLimit reads hop limits as the redirector can.
func (b *bridge) watchHopLimit(fd int) (func() (int, error), error) {
	r := b.attached.Load()
	if r == nil {
		return nil, redirect.ErrNoRecord
	}
	return (*r).WatchHopLimit(fd)
}

// close undoes what newBridge and attach did, as far as they came. Calls that were redirected before
// a start failed are answered like any others: the redirector's records go last.
func (b *bridge) close() error {
	var errs []error
	ctx, cancel := context.WithTimeout(context.Background(), drainPatience)
	defer cancel()
	attached := b.attached.Load()
	if attached != nil {
		errs = append(errs, (*attached).Detach())
	}
	b.pulse.end()
	if b.proxy != nil {
		errs = append(errs, b.proxy.Shutdown(ctx))
	}
	if b.reporter != nil {
		if err := b.reporter.Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("report the last calls: %w", err))
		}
	}
	if attached != nil {
		errs = append(errs, (*attached).Close())
	}
	for _, l := range b.listeners {
		errs = append(errs, l.Close())
	}
	if b.admin != nil {
		errs = append(errs, b.admin.Close())
	}
	return errors.Join(append(errs, b.cgroup.Close())...)
}
