package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/imds-bridge/imds-bridge/attribution"
	"github.com/imds-bridge/imds-bridge/caller/owner"
)

// calledFacts are what a process was at its last call. Any user of the host may ask the admin listener: so
// what the log alone is to show is not among them.
func calledFacts(r *attribution.Record) []fact {
	f := facts{pid: r.Caller.PID, called: true}
	f.process(r.Caller)
	f.place(r.Caller)
	f.container(r.Caller, r.Container)
	f.software(r.Software, errNotFoundOut, false)
	return without(f.list, "arguments", "labels", "pod labels", "pod annotations")
}

var errNotFoundOut = errors.New("the bridge has not found out, or not while the process ran")

// ended explains a process that is gone, as the running bridge remembers it.
func (e *explainer) ended(ctx context.Context, pid uint32) (*explanation, error) {
	const gone = "no such process: it has ended, or never was"
	listen := e.config.Admin.Listen
	if listen == "" {
		return nil, errors.New(gone + "; admin.listen is off, so the running bridge cannot be asked what it remembers: set it as the bridge has it, or look for the pid in the bridge's log")
	}
	c, err := askCalls(ctx, listen, pid)
	switch {
	case errors.Is(err, errNoCalls):
		return nil, errors.New(gone + "; the running bridge remembers no call of it: look for the pid in the bridge's log")
	case err != nil:
		return nil, fmt.Errorf(gone+"; %w: give explain the admin.listen of the bridge, or look for the pid in the bridge's log", err)
	}
	f := facts{pid: pid, called: true, list: c.Facts}
	f.unknown("arguments", "the bridge's log has them, with its calls")
	f.owner(&attribution.Attribution{Who: &attribution.Who{Owner: owner.Owner(c.Owner), Service: c.Service}}, owner.Owner{From: ofBridge}, false)
	p := explained{PID: pid, Ended: true, Calls: c, Facts: f.list}
	p.Facts = append(p.Facts, c.facts(&p)...)
	c.Facts = nil // they are among the process's
	return &explanation{Processes: []explained{p}}, nil
}
