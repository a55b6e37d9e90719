package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/imds-bridge/imds-bridge/admin"
	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/handover"
	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/proxy"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
	"github.com/imds-bridge/imds-bridge/redirect/owner"
	"github.com/imds-bridge/imds-bridge/report"
	"github.com/imds-bridge/imds-bridge/telemetry"
)

// bridge is what `run` puts together: listeners, proxy and hook, and how they meet.
type bridge struct {
	config    config.Config
	telemetry *telemetry.Telemetry
	log       *slog.Logger

	before     *predecessor // whose place this one takes; nil for none
	listeners  []*redirect.Listener
	admin      *admin.Server
	cgroup     redirect.Cgroup
	callers    *caller.Reader
	attributor *attributor
	owners     *owners // of connections that no hook recorded
	reporter   *report.Reporter
	proxy      *proxy.Proxy // nil where nothing is redirected
	check      *selfCheck
	attached   atomic.Pointer[redirector] // nil before attach
	settle     func() error               // what is done once redirection is proven
	eyes       *eyes                      // nil where they cannot be had
	pulse      pulse
	status     status
	failed     chan error // ends the run

	control    *handover.Control // where the next bridge takes over; nil where it cannot
	succeeded  chan struct{}     // closed when it has
	restarting atomic.Bool       // systemd has what the next bridge needs, which it will start
	left       bool              // the listeners and the hook wait for it
}

// newBridge listens and serves; nothing is redirected yet.
func newBridge(ctx context.Context, c config.Config, chosen choice, before *predecessor, t *telemetry.Telemetry) (_ *bridge, err error) {
	b := &bridge{
		config: c, telemetry: t, log: t.Logger(),
		before: before,
		check:  newSelfCheck(),
		settle: func() error { return nil },
		failed: make(chan error, 4),

		succeeded: make(chan struct{}),
	}
	b.status.choice = chosen
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if err := b.findCgroup(); err != nil {
		return nil, err
	}
	if err := b.newReporter(); err != nil {
		return nil, err
	}
	if chosen.redirector != redirectNone {
		if err := b.newProxy(); err != nil {
			return nil, err
		}
		if err := b.listen(ctx); err != nil {
			return nil, err
		}
	}
	if !before.isLive() { // which has the admin listener
		err = b.serveAdmin()
	}
	return b, errors.Join(err, b.status.observe(t.MeterProvider()))
}

// findCgroup finds what to attach programs to. Rules of iptables need none: without one, nobody
// watches what goes past them.
func (b *bridge) findCgroup() (err error) {
	if b.config.Redirect.Cgroup != "" {
		b.cgroup.Path = b.config.Redirect.Cgroup
		return nil
	}
	if b.cgroup, err = redirect.FindCgroup(); b.status.choice.redirector == redirectIPTables {
		return nil
	}
	return err
}

func (b *bridge) newReporter() (err error) {
	if b.owners, err = newOwners(owner.Options{Cgroup: b.cgroup.Path}, b.log); err != nil {
		return err
	}
	if b.attributor, err = newAttributor(b.config, b.log); err != nil {
		return err
	}
	if b.callers, err = caller.NewReader(caller.Options{Size: b.config.Limits.Callers, Env: b.attributor.variables}); err != nil {
		return err
	}
	t := b.telemetry
	b.reporter, err = report.New(report.Options{
		Attribute:      b.attributor.call,
		Logger:         b.log,
		TracerProvider: t.TracerProvider(),
		MeterProvider:  t.MeterProvider(),
		Tracing:        t.Tracing(),
		Dropped: func(signal string) {
			t.Dropped(telemetry.Signal(signal), telemetry.QueueFull, 1)
		},
	})
	return err
}

func (b *bridge) newProxy() error {
	c := b.config
	connections, lowered, err := fitOpenFiles(c.Limits.Connections)
	if err != nil {
		return err
	}
	if lowered {
		b.log.Warn("fewer connections at once than limits.connections: the process may not open more files (systemd: LimitNOFILE=)", "connections", connections)
	}
	b.proxy, err = proxy.New(proxy.Options{
		Lookup: b.lookup,
		Caller: b.caller,
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
			Prepare:       b.exempt,
			WatchHopLimit: b.watchHopLimit,
		},
		Spare:         b.owners.spare,
		Reporter:      b.reporter,
		Logger:        b.log,
		MeterProvider: b.telemetry.MeterProvider(),
	})
	return err
}

// exempt keeps a socket of our own from being redirected. Rules that somebody else put in place exempt
// our user instead.
func (b *bridge) exempt(fd int) error {
	if b.status.choice.redirector == redirectIPTables && !b.config.Redirect.Install {
		return nil
	}
	return redirect.Exempt(fd, uint32(b.config.Redirect.Mark))
}

// lookup says who made a connection: what redirect knows, in the proxy's words.
func (b *bridge) lookup(accepted net.Conn) (caller.Peer, func() (caller.Peer, error), error) {
	r := b.attached.Load()
	if r == nil {
		return caller.Peer{}, nil, redirect.ErrNoRecord
	}
	slow, ok := (*r).(beginner)
	if !ok {
		peer, err := b.known((*r).Lookup(accepted))
		return peer, nil, err
	}
	c, rest, err := slow.Begin(accepted)
	if err != nil || rest == nil {
		peer, err := b.known(c, err)
		return peer, nil, err
	}
	return peerOf(c), func() (caller.Peer, error) { return b.known(rest()) }, nil
}

func (b *bridge) known(c redirect.Connection, err error) (caller.Peer, error) {
	if err != nil {
		return caller.Peer{}, err
	}
	b.check.saw(c)
	return peerOf(c), nil
}

// peerOf is what a redirector knows, in the words of proxy and report.
func peerOf(c redirect.Connection) caller.Peer {
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
	}
}

// warmUp fetches the token that the first v1 call would else wait for, and says when IMDS cannot
// be reached.
func (b *bridge) warmUp() {
	if b.proxy == nil {
		return
	}
	err := b.proxy.WarmUp()
	switch {
	case err == nil:
	case b.config.Redirect.Listen.Addr().IsLoopback(): // in a pod or task
		b.log.Warn("IMDS does not answer the bridge: calls get 503 until it does (is HttpPutResponseHopLimit 2 or more? a token does not get into a network namespace behind the host's with 1; is HttpEndpoint enabled? is there a route to upstream.ipv4?)", "error", err.Error())
	default:
		b.log.Warn("IMDS does not answer the bridge: calls get 503 until it does (is HttpEndpoint enabled? is there a route to upstream.ipv4?)", "error", err.Error())
	}
}

// drain stops redirecting, then waits for the calls under way.
func (b *bridge) drain() error {
	b.status.notReady()
	// What comes now is no bypass.
	err := errors.Join(b.eyes.detach(), (*b.attached.Load()).Detach())
	b.pulse.end()
	if b.proxy == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainPatience)
	defer cancel()
	return errors.Join(err, b.proxy.Shutdown(ctx))
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
	ctx, cancel := context.WithTimeout(context.Background(), b.patience(drainPatience))
	defer cancel()
	if b.control != nil {
		errs = append(errs, b.control.Close())
	}
	errs = append(errs, b.giveUp(), b.eyes.detach(), b.detach())
	if b.proxy != nil {
		errs = append(errs, b.proxy.Shutdown(ctx))
	}
	b.pulse.end()
	errs = append(errs, b.eyes.close())
	if b.reporter != nil {
		if err := b.reporter.Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("report the last calls: %w", err))
		}
	}
	b.attributor.close()
	errs = append(errs, b.release())
	if b.owners != nil {
		errs = append(errs, b.owners.Close())
	}
	for _, l := range b.listeners {
		errs = append(errs, l.Close())
	}
	if b.admin != nil {
		errs = append(errs, b.admin.Close())
	}
	return errors.Join(append(errs, b.cgroup.Close())...)
}

// detach stops redirecting, except where calls are to wait for the next bridge.
func (b *bridge) detach() error {
	r := b.attached.Load()
	if r == nil || b.left {
		return nil
	}
	return (*r).Detach()
}

// release gives up the redirector, whose records are of use to nobody any longer, or to the next bridge.
func (b *bridge) release() error {
	r := b.attached.Load()
	switch {
	case r == nil:
		return nil
	case b.left:
		return (*r).(*hook.Hook).Leave(restartGrace)
	}
	return (*r).Close()
}

// patience is how long something may take at the end: not as long where calls wait for the next bridge.
func (b *bridge) patience(usual time.Duration) time.Duration {
	if b.left {
		return restartPatience
	}
	return usual
}
