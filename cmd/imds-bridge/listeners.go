package main

import (
	"context"
	"net/netip"

	"github.com/imds-bridge/imds-bridge/admin"
	"github.com/imds-bridge/imds-bridge/redirect"
)

// listen serves from now on, unless there is a bridge before: its calls wait until they can be looked
// up, or until it no longer serves them.
func (b *bridge) listen(ctx context.Context) error {
	r := &b.config.Redirect
	if b.before != nil {
		b.proxy.Pause()
	} else if err := b.silenceDead(); err != nil {
		return err
	}
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
	l, err := b.before.listener(at)
	if l == nil && err == nil {
		l, err = redirect.Listen(ctx, at)
	}
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
	b.admin = admin.New(admin.Options{Status: b.now, Metrics: b.telemetry.MetricsHandler(), Callers: b.attributor.called, Logger: b.log})
	go func() {
		if err := b.admin.Serve(l); err != nil {
			b.failed <- err
		}
	}()
	return nil
}
