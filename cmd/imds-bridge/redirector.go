package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"go.opentelemetry.io/otel/metric"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/doctor"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
)

// Redirectors, as the settings name them.
const (
	redirectAuto     = "auto"
	redirectEBPF     = "ebpf"
	redirectIPTables = "iptables"
	redirectNone     = "none"

	failClosed = "closed"
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

// beginner is a redirector that takes time to find out who made a connection. It says at once where that is likely to be from, and
// rest waits for what Lookup says. Where rest is nil, all is said.
type beginner interface {
	Begin(accepted net.Conn) (likely redirect.Connection, rest func() (redirect.Connection, error), err error)
}

// choice is the redirector of a run, and why it is that one.
type choice struct{ redirector, why string }

// choose takes the redirector that is asked for, or looks for one that this host can do.
func choose(c config.Config) (choice, error) {
	if err := checkCgroup(c.Redirect); err != nil {
		return choice{}, err
	}
	if c.Redirector != redirectAuto {
		return choice{c.Redirector, "asked for"}, nil
	}
	taken, why, err := doctor.Choose(doctor.Look(doctorOptions(c, false)))
	if err != nil {
		if missing := checkPrivileges(privilegesOf(redirectEBPF, c.Redirect.Install).needed); missing != nil {
			return choice{}, missing
		}
		return choice{}, fmt.Errorf("%w (imds-bridge doctor says more)", err)
	}
	return choice{string(taken), why}, nil
}

// checkCgroup refuses a directory that is not there: it is not the whole host.
func checkCgroup(c config.Redirect) error {
	if _, err := os.Stat(c.Cgroup); c.Cgroup != "" && err != nil {
		return usage(fmt.Errorf("redirect.cgroup: %w: name a cgroup2 directory, or leave it empty for the whole host", err))
	}
	return nil
}

// chooseAfter takes what auto has left once a choice has failed.
func chooseAfter(c config.Config, failed choice, err error) (choice, error) {
	if c.Redirector != redirectAuto || failed.redirector == redirectIPTables || errors.Is(err, hook.ErrInUse) {
		return choice{}, err
	}
	facts := doctor.Look(doctorOptions(c, false))
	facts.Tried[doctor.Redirector(failed.redirector)] = err
	taken, why, err := doctor.Choose(facts)
	if err != nil {
		return choice{}, err
	}
	return choice{string(taken), why}, checkPrivileges(privilegesOf(string(taken), c.Redirect.Install).needed)
}

// attach redirects, or records who calls, from now on.
func (b *bridge) attach() error {
	attached, err := b.newRedirector()
	if err != nil {
		b.attached.Store(nil)
		return err
	}
	if b.proxy != nil {
		b.pulse = pulse{
			limit:  b.config.Redirect.Heartbeat,
			probe:  b.proxy.Probe,
			beat:   attached.Beat,
			failed: func(err error) { b.failed <- err },
			at:     b.listeners,
		}
		if b.before.isLive() {
			b.pulse.hold() // until calls come here
		}
		b.pulse.start()
	}
	if err := b.openEyes(); err != nil {
		if b.proxy == nil {
			return err
		}
		b.log.Warn("calls that go past the bridge are not seen", "error", err.Error())
	}
	return attached.Observe(b.telemetry.MeterProvider())
}

// newRedirector puts the redirector in place that was chosen.
func (b *bridge) newRedirector() (redirector, error) {
	if b.status.choice.redirector == redirectIPTables {
		return b.newRules()
	}
	return b.newHook()
}

// newHook attaches the hook. Without listeners, where nothing is redirected, it records who calls.
func (b *bridge) newHook() (*hook.Hook, error) {
	r := b.config.Redirect
	o := hook.Options{
		Cgroup:      b.cgroup.Path,
		Mark:        uint32(r.Mark),
		Connections: uint32(r.Connections),
		Attaching:   func(h *hook.Hook) { b.isAttached(h) },
	}
	if b.proxy == nil {
		b.check.connected = connectsWatched(b)
		return hook.Attach(o)
	}
	b.check.mark = newCheckMark(uint32(r.Mark))
	o.CheckMark = b.check.mark
	o.Listen, o.Listen6, o.OwnNetNSOnly = r.Listen, r.Listen6, !r.Containers
	o.Heartbeat = r.Heartbeat
	o.FailClosed = b.config.Fail == failClosed
	o.Succeeds = b.before.isLive()
	records, err := b.before.records()
	if err != nil {
		return nil, err
	}
	if records != nil {
		defer records.Sockets.Close()
		defer records.Connections.Close()
		o.Records = records
	}
	h, err := hook.Attach(o)
	if err != nil {
		return nil, err
	}
	b.settle = func() error { return b.settleHook(h) }
	return h, nil
}

// silenceDead keeps the hook that a dead bridge pinned from sending calls here, which nobody could look
// up. It ends the start where the hook is that of a bridge which lives, before anything is changed.
func (b *bridge) silenceDead() error {
	if b.status.choice.redirector != redirectEBPF {
		return nil
	}
	pins, err := hook.PinsOf(b.cgroup.Path)
	if err != nil {
		return nil // to attach there fails too, and says why
	}
	return hook.Silence(pins)
}

// settleHook makes a proven hook outlive the bridge where calls are to be refused without it, and
// takes away what an earlier bridge left for that.
func (b *bridge) settleHook(h *hook.Hook) error {
	if b.config.Fail == failClosed {
		return h.Pin()
	}
	pins, err := hook.PinsOf(b.cgroup.Path)
	if err != nil {
		return err
	}
	removed, err := hook.RemovePins(pins)
	if removed {
		b.log.Info("took away the hook of an earlier bridge that refused calls (fail: closed)", "pins", pins)
	}
	if errors.Is(err, hook.ErrInUse) { // which has come since this one attached
		return err
	}
	if err != nil && !errors.Is(err, fs.ErrPermission) { // a user who may not look has not pinned either
		b.log.Warn("pins of an earlier bridge stay", "error", err.Error())
	}
	return nil
}

// isAttached makes lookups work; the first call may arrive at once. What waited for a bridge that
// systemd starts again is served.
func (b *bridge) isAttached(r redirector) {
	b.attached.Store(&r)
	if b.proxy != nil && !b.before.isLive() {
		b.proxy.Resume()
	}
}

// connectsWatched tells whether a connect() was seen since the last time it was asked.
func connectsWatched(b *bridge) func() bool {
	var before uint64
	return func() bool {
		h, ok := (*b.attached.Load()).(*hook.Hook)
		if !ok {
			return false
		}
		counters, err := h.Counters()
		now := counters["watched"]
		seen := err == nil && now > before
		before = now
		return seen
	}
}
