package main

import (
	"net"

	"go.opentelemetry.io/otel/metric"

	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
)

// redirector brings calls to the listeners, and says whose they are.
type redirector interface {
	// Lookup says who made a connection that a listener accepted; [redirect.ErrNoRecord] is for one
	// that was not redirected.
	Lookup(accepted net.Conn) (redirect.Connection, error)
	// WatchHopLimit notes with which hop limit the other end of a socket answers.
	WatchHopLimit(fd int) (func() (int, error), error)
	// Beat is a sign of life, without which it stops redirecting.
	Beat() error
	// Detach stops redirecting; connections made before can still be looked up.
	Detach() error
	Close() error
	Observe(metric.MeterProvider) error
}

// newRedirector puts the redirector in place that was chosen.
func (b *bridge) newRedirector() (redirector, error) {
	return b.newHook()
}

func (b *bridge) newHook() (redirector, error) {
	r := b.config.Redirect
	return hook.Attach(hook.Options{
		Cgroup:       b.cgroup.Path,
		Listen:       r.Listen,
		Listen6:      r.Listen6,
		OwnNetNSOnly: !r.Containers,
		Mark:         uint32(r.Mark),
		Heartbeat:    r.Heartbeat,
		Connections:  uint32(r.Connections),
		Attaching:    func(h *hook.Hook) { b.isAttached(h) },
	})
}

// isAttached makes lookups work; the first call may arrive at once.
func (b *bridge) isAttached(r redirector) { b.attached.Store(&r) }
