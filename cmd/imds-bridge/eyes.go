package main

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
	"github.com/imds-bridge/imds-bridge/redirect/watch"
	"github.com/imds-bridge/imds-bridge/report"
)

// eyes see what reaches IMDS other than through the proxy: every call where nothing is redirected,
// and else what went past the bridge.
type eyes struct {
	watch    *watch.Watch
	caller   func(caller.Origin) *caller.Caller
	reporter *report.Reporter
	why      policy.Reason // why a call that is seen was not decided
}

// openEyes watches the cgroup.
func (b *bridge) openEyes() (err error) {
	e := &eyes{caller: b.caller, reporter: b.reporter, why: report.Bypassed}
	if b.status.choice.redirector == redirectNone {
		e.why = report.Watched
	}
	o := watch.Options{
		Cgroup: b.cgroup.Path,
		Mark:   uint32(b.config.Redirect.Mark),
		// Rules redirect packets of others after they were seen.
		OwnNetNS: b.status.choice.redirector == redirectIPTables,
		Owner: func(client, server netip.AddrPort) (redirect.Connection, error) {
			return b.owners.Find(context.Background(), client, server)
		},
		Few:  b.proxy != nil,
		Met:  func(c redirect.Connection) { e.caller(peerOf(c).Origin) }, // who remembers
		Seen: e.saw,
	}
	if h, ok := (*b.attached.Load()).(*hook.Hook); ok {
		o.Sockets = h.Records().Sockets // whose connections they are
	}
	if e.watch, err = watch.Attach(o); err != nil {
		return err
	}
	b.eyes = e
	return e.watch.Observe(b.telemetry.MeterProvider())
}

// saw reports a call that was not the proxy's.
func (e *eyes) saw(x watch.Exchange) {
	call := &report.Call{
		Start: x.Start, End: x.End,
		Method: x.Method, Proto: x.Proto, Host: x.Host, UserAgent: x.Header.Get("User-Agent"),
		Client:   x.Client,
		Peer:     peerOf(x.Connection),
		Decision: policy.Decision{Verdict: policy.Pass, Reason: e.why},
		Status:   x.Status,
	}
	if x.Known {
		call.Caller = e.caller(call.Peer.Origin)
	}
	classify(call, x.Target, x.Header, x.Malformed)
	e.reporter.Call(call)
}

func classify(call *report.Call, target string, header http.Header, malformed bool) {
	if malformed {
		call.Error = report.ErrorMalformed
		return
	}
	path, err := imds.Canonical(target)
	if err != nil {
		call.Error, call.Cause = report.ErrorPath, err
		return
	}
	call.Path = path
	call.Route = imds.RouteOf(path)
	call.Kind = imds.Classify(call.Method, path, header)
	call.RelaySign = imds.RelaySign(call.Host, header)
}

// close looks away, once what was seen is reported.
func (e *eyes) close() error {
	if e == nil {
		return nil
	}
	return e.watch.Close()
}

// detach looks away from what comes now.
func (e *eyes) detach() error {
	if e == nil {
		return nil
	}
	return e.watch.Detach()
}

// closeEarlier closes connections that are older than the bridge, where that is asked for.
func (b *bridge) closeEarlier() {
	if !b.config.Redirect.CloseConnections {
		return
	}
	closed, err := watch.CloseConnected(uint32(b.config.Redirect.Mark))
	for _, c := range closed {
		b.log.Info("closed a connection to IMDS that is older than the bridge", "client", c.Client.String(), "uid", c.UID)
	}
	if err != nil {
		b.log.Warn("connections that are older than the bridge stay", "error", err.Error())
	}
}
