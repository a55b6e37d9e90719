package doctor

import (
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// Status is what a finding comes to.
type Status string

const (
	OK      Status = "ok"
	Limit   Status = "limit"   // the bridge works, with less
	Fail    Status = "fail"    // the bridge does not work until this is remedied
	Unknown Status = "unknown" // it could not be looked at
)

// Finding is one line of the report.
type Finding struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Found  string `json:"found"`
	// Means is what follows for the bridge, Remedy what to do about it; "" where there is nothing to say.
	Means  string `json:"means,omitempty"`
	Remedy string `json:"remedy,omitempty"`
	// Concerns names the one redirector that is concerned; "" for all.
	Concerns Redirector `json:"concerns,omitempty"`

	left bool // not looked at because nobody asked for it
}

// Verdict is what all findings come to.
type Verdict string

const (
	Usable  Verdict = "usable"
	Limited Verdict = "limited" // usable, with the limits that the findings name
	Useless Verdict = "unusable"
)

// Schema is the version of the report's JSON form. It changes when a key changes its meaning or goes.
const Schema = 1

// Report is what [Examine] found.
type Report struct {
	Schema  int     `json:"schema"`
	Verdict Verdict `json:"verdict"`
	// Redirector is what the bridge would take, "" if none can be had, and Why the reason.
	Redirector Redirector `json:"redirector"`
	Why        string     `json:"why"`
	Findings   []Finding  `json:"findings"`
}

// Options are the settings of the bridge that is to run.
type Options struct {
	Redirector Redirector
	// Install says that the bridge itself puts iptables rules in place.
	Install bool
	// Cgroup is the directory to redirect; "" for the root.
	Cgroup          string
	Listen, Listen6 netip.AddrPort
	// Containers says that callers in other network namespaces are redirected too.
	Containers bool
	// Mark is that of the bridge's own sockets.
	Mark uint32
	// Needs are the capabilities that the bridge needs to start with a redirector.
	Needs map[Redirector][]string
	// Upstream and Upstream6 are where the bridge forwards calls to.
	Upstream, Upstream6 netip.AddrPort

	// AskV1 allows a call without a token, which CloudWatch counts.
	AskV1 bool
	// Guard makes the command of the process that guards iptables rules (package iptables).
	Guard func() *exec.Cmd
	// Child makes the command of a process that does [Connect] on its standard input and output.
	Child func(context.Context) *exec.Cmd
}

// check looks at one thing.
type check struct {
	name string
	look func(context.Context, *host) []Finding
}

// patience is for a whole examination. A metadata service that is silent takes three seconds.
const patience = 4 * time.Second

// Examine looks at the host. It changes nothing on it: what it makes to prove the redirectors is gone
// when it returns. It takes five seconds at most, and less if ctx ends.
func Examine(ctx context.Context, o Options) Report {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return examine(ctx, o)
}

// examine takes as long as ctx lets it.
func examine(ctx context.Context, o Options) Report {
	h := newHost(ctx, o)
	defer h.close()
	found := make([][]Finding, len(checks))
	var looking sync.WaitGroup
	for i, c := range checks {
		looking.Go(func() {
			found[i] = c.look(ctx, h)
			for j := range found[i] {
				found[i][j].Check = c.name
				if o.Redirector == None && found[i][j].Concerns == EBPF {
					found[i][j].Concerns = None // which needs all that the hook needs
				}
			}
		})
	}
	looking.Wait()
	return judge(h.choose(), slices.Concat(found...), o.Redirector)
}

// judge comes to a verdict.
func judge(c choice, findings []Finding, wanted Redirector) Report {
	r := Report{Schema: Schema, Verdict: Usable, Redirector: c.redirector, Why: c.why, Findings: findings}
	last := Finding{Check: choiceName, Status: OK, Found: string(c.redirector), Means: c.why}
	switch {
	case c.err != nil:
		r.Redirector, r.Why = "", c.err.Error()
		last = Finding{Check: choiceName, Status: Fail, Found: "none can be had", Means: r.Why, Remedy: "see the findings above"}
	case wanted == Auto && c.redirector != EBPF:
		last.Status, last.Remedy = Limit, "see the findings above on ebpf"
	}
	r.Findings = append(r.Findings, last)
	for _, f := range r.Findings {
		r.Verdict = worse(r.Verdict, f, r.Redirector)
	}
	return r
}

// worse takes one more finding into a verdict. What concerns a redirector that is not taken does not
// count: that it was not taken, does.
func worse(v Verdict, f Finding, taken Redirector) Verdict {
	switch {
	case f.left || f.Status == OK || f.Concerns != "" && f.Concerns != taken:
		return v
	case v == Useless || f.Status == Fail:
		return Useless
	default:
		return Limited
	}
}
