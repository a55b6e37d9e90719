package doctor

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/iptables"
)

// host is what several checks want to know. It is looked at once, by the first that asks.
type host struct {
	options      Options
	kernel       Kernel
	status       procStatus
	capabilities capabilitySet

	cgroup   func() (redirect.Cgroup, error)
	hooks    func() hooks
	bridges  func() []process
	firewall func() firewall
	tools    func() (iptables.Report, error)
	links    func() []containerLink
	probe4   func() probe
	probe6   func() probe
	hookRun  func() error // errNotTried, or what came of it
	rulesRun func() error
}

// choice is what [Choose] returned.
type choice struct {
	redirector Redirector
	why        string
	err        error
}

// errNotTried is why a trial says nothing.
var errNotTried = errors.New("not tried")

func newHost(ctx context.Context, o Options) *host {
	h := &host{options: o, kernel: ParseKernel(release()), status: ownStatus()}
	h.capabilities = h.status.effective
	h.cgroup = sync.OnceValues(h.findCgroup)
	h.hooks = sync.OnceValue(h.queryHooks)
	h.bridges = sync.OnceValue(runningBridges)
	h.firewall = sync.OnceValue(func() firewall { return readFirewall(ctx, h.capabilities.has("CAP_NET_ADMIN")) })
	h.tools = sync.OnceValues(h.findTools)
	h.links = sync.OnceValue(containerLinks)
	h.probe4 = sync.OnceValue(func() probe { return h.ask(ctx, o.Upstream, o.AskV1) })
	h.probe6 = sync.OnceValue(func() probe { return h.ask(ctx, o.Upstream6, false) })
	h.hookRun = sync.OnceValue(func() error { return h.tryHook(ctx) })
	h.rulesRun = sync.OnceValue(func() error { return h.tryRules(ctx) })
	return h
}

func (h *host) close() {
	if cgroup, err := h.cgroup(); err == nil {
		cgroup.Close()
	}
}

func (h *host) findCgroup() (redirect.Cgroup, error) {
	if h.options.Cgroup == "" {
		return redirect.FindCgroup()
	}
	dir, err := redirect.OpenCgroup(h.options.Cgroup)
	if err != nil {
		return redirect.Cgroup{}, err
	}
	return redirect.Cgroup{Path: h.options.Cgroup}, dir.Close()
}

// considers tells whether a redirector may be taken at all.
func (h *host) considers(r Redirector) bool {
	return h.options.Redirector == r || h.options.Redirector == Auto && r != None
}

// considersHook tells whether the hook may be attached, to redirect or, by none, to record who calls.
func (h *host) considersHook() bool { return h.options.Redirector != IPTables }

// Look gathers the facts that a choice needs, without a trial and within milliseconds.
func Look(o Options) Facts {
	h := newHost(context.Background(), o)
	defer h.close()
	return h.facts()
}

func (h *host) facts() Facts {
	f := Facts{
		Wanted:   h.options.Redirector,
		Install:  h.options.Install,
		Kernel:   h.kernel,
		BTF:      hasBTF(),
		Lockdown: lockdown(),
		Memlock:  hasMemlock(h.kernel, memlock(), h.capabilities.has("CAP_SYS_RESOURCE")),
		Missing:  h.capabilities.missingFor(h.options.Needs),
		Tried:    make(map[Redirector]error),
	}
	_, f.Cgroup = h.cgroup()
	f.Part = isPart(h.options.Cgroup)
	_, f.Tools = h.tools()
	f.Holder = h.hooks().holder()
	return f
}

// choose takes what came of the trials into account.
func (h *host) choose() (c choice) {
	f := h.facts()
	for r, try := range map[Redirector]func() error{EBPF: h.hookRun, None: h.hookRun, IPTables: h.rulesRun} {
		if err := try(); !errors.Is(err, errNotTried) {
			f.Tried[r] = err
		}
	}
	c.redirector, c.why, c.err = Choose(f)
	return c
}

// notTried says why there was no trial.
func notTried(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errNotTried, fmt.Sprintf(format, args...))
}
