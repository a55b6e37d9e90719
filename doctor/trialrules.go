package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/redirect/iptables"
	"github.com/imds-bridge/imds-bridge/redirect/owner"
)

// tryRules proves iptables: in a network namespace made for it, with no way out of it, the rules must
// bring a child's connect() to 169.254.169.254:80 to a listener, and say what it was meant for. It is
// not tried where ebpf is taken, to spare the kernel the loading of modules.
func (h *host) tryRules(ctx context.Context) error {
	switch {
	case !h.considers(IPTables):
		return notTried("redirector is %s", h.options.Redirector)
	case !h.options.Install:
		return notTried("the rules are not the bridge's to install (redirect.install: false)")
	case h.takesHook():
		return notTried("ebpf is taken")
	}
	if missing := h.capabilities.missing(append([]string{"CAP_SYS_ADMIN"}, iptables.Capabilities...)); len(missing) > 0 {
		return notTried("a network namespace to try it in takes %s", strings.Join(missing, " "))
	}
	tools, err := h.tools()
	if err != nil {
		return notTried("there is no program to try it with")
	}
	tried := make(chan error, 1)
	go func() {
		tried <- inNewNamespace(func() error { return h.tryRulesOf(ctx, tools.Backend) })
	}()
	select {
	case err = <-tried:
	case <-ctx.Done(): // another program may hold the lock of the tables; the guard cleans up in any case
		err = ctx.Err()
	}
	if err != nil && ctx.Err() != nil {
		return notTried("the host is too busy to do it in time: %s", err)
	}
	return err
}

func (h *host) takesHook() bool {
	f := h.facts()
	if err := h.hookRun(); !errors.Is(err, errNotTried) {
		f.Tried[EBPF] = err
	}
	taken, _, _ := Choose(f)
	return taken == EBPF
}

// inNewNamespace calls f on a thread in a network namespace of its own, which ends with the call.
func inNewNamespace(f func() error) error {
	failed := make(chan error)
	go func() {
		// Without a way back the thread stays locked, and ends with the goroutine.
		runtime.LockOSThread()
		failed <- func() error {
			home, err := netns.Get()
			if err != nil {
				return notTried("the thread's network namespace cannot be opened: %s", err)
			}
			defer home.Close()
			own, err := netns.New()
			if err != nil {
				return notTried("a network namespace cannot be made: %s", err)
			}
			defer own.Close()
			defer func() {
				if netns.Set(home) == nil {
					runtime.UnlockOSThread()
				}
			}()
			return f()
		}()
	}()
	return <-failed
}

func (h *host) tryRulesOf(ctx context.Context, backend string) error {
	if err := routeToLoopback(); err != nil {
		return notTried("the network namespace cannot be set up: %s", err)
	}
	l, err := listenLoopback(ctx)
	if err != nil {
		return err
	}
	defer l.Close()
	owners, err := owner.New(owner.Options{})
	if err != nil {
		return notTried("who has a socket cannot be asked: %s", err)
	}
	defer owners.Close()
	attached, err := iptables.Attach(iptables.Options{
		Rules: iptables.Rules{
			Tools:  iptables.Tools{Backend: backend, LockTimeout: time.Second},
			Listen: l.Addr().(*net.TCPAddr).AddrPort(),
			Mark:   h.options.Mark,
		},
		Owners: owners, Guard: h.options.Guard, Heartbeat: time.Minute,
	})
	if err != nil {
		return err
	}
	defer attached.Close()

	child, err := h.startChild(ctx)
	if err != nil {
		return err
	}
	defer child.end()
	if _, err := child.connect(); err != nil {
		return err
	}
	_ = l.SetDeadline(time.Now().Add(time.Second))
	conn, err := l.Accept()
	if err != nil {
		return fmt.Errorf("the connection did not arrive: %s", plain(err))
	}
	defer conn.Close()
	c, err := attached.Lookup(conn)
	switch {
	case err != nil:
		return fmt.Errorf("the connection arrived, but: %w", err)
	case c.Original.Addr() != imds.IPv4 || c.Original.Port() != imds.Port:
		return fmt.Errorf("the connection arrived, recorded as one to %s", c.Original)
	case c.PID != 0 && c.PID != uint32(child.pid()): // 0 is a caller that cannot be told
		return fmt.Errorf("the connection arrived, recorded as one of pid %d, not %d", c.PID, child.pid())
	}
	return nil
}

// routeToLoopback makes every address one of this namespace's loopback.
func routeToLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: everywhere, Scope: netlink.SCOPE_LINK})
}

func checkRulesTrial(_ context.Context, h *host) []Finding {
	if !h.considers(IPTables) || h.takesHook() {
		return nil
	}
	err := h.rulesRun()
	switch {
	case err == nil:
		return []Finding{{Status: OK, Concerns: IPTables, Found: fmt.Sprintf("in a namespace of its own, a child's connect() to %s:%d came to a listener of ours", imds.IPv4, imds.Port)}}
	case errors.Is(err, errNotTried):
		return []Finding{{Status: Unknown, Concerns: IPTables, Found: err.Error(), left: !h.options.Install}}
	default:
		return []Finding{{Status: Fail, Concerns: IPTables, Found: err.Error(), Means: "iptables does not work here", Remedy: "look at the findings on iptables and capabilities; are nf_nat and nf_conntrack in the kernel?"}}
	}
}
