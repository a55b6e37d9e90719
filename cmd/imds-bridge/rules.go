package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/iptables"
)

// rulesOf are the rules that the settings ask for.
func rulesOf(c config.Config) iptables.Rules {
	return iptables.Rules{
		Listen:     c.Redirect.Listen,
		Listen6:    c.Redirect.Listen6,
		Containers: c.Redirect.Containers,
		Mark:       uint32(c.Redirect.Mark),
	}
}

// checkPort is the source port from which a bridge proves rules that exempt all else of its user's. The
// listener has it on loopback, and the self-check on the address that leads to IMDS.
func checkPort(c config.Config) uint16 { return c.Redirect.Listen.Port() }

// newRules puts rules of iptables in place, under a guard, or goes by those that are there.
func (b *bridge) newRules() (redirector, error) {
	c := b.config
	o := iptables.Options{
		Rules:      rulesOf(c),
		Owners:     b.owners,
		Preset:     !c.Redirect.Install,
		Guard:      guardCommandLine,
		Heartbeat:  c.Redirect.Heartbeat,
		FailClosed: c.Fail == failClosed,
		Attaching:  func(r *iptables.Redirector) { b.isAttached(rules{r}) },
	}
	if o.Preset {
		b.check.port = checkPort(c)
	} else {
		b.check.mark = newCheckMark(uint32(c.Redirect.Mark))
		o.CheckMark = b.check.mark
	}
	r, err := iptables.Attach(o)
	if err != nil {
		return nil, err
	}
	if report := r.Report(); report.NoIPv6 != "" {
		b.log.Warn("calls to the IPv6 endpoint are not redirected", "cause", report.NoIPv6)
	}
	b.settle = func() error { return b.settleRules(r) }
	return rules{r}, nil
}

// rules of iptables bring calls of whoever can send packets here, be it another machine.
type rules struct{ *iptables.Redirector }

// Lookup refuses whom it does not know, unless it can only be a container of this host: that may have
// closed its connection by now, or may not be looked into.
func (r rules) Lookup(accepted net.Conn) (redirect.Connection, error) {
	c, rest, err := r.Begin(accepted)
	if rest != nil {
		return rest()
	}
	return c, err
}

// Begin begins a Lookup, as a [beginner] does.
func (r rules) Begin(accepted net.Conn) (redirect.Connection, func() (redirect.Connection, error), error) {
	c, rest, err := r.Redirector.Begin(accepted)
	if err != nil {
		return c, nil, err
	}
	if rest == nil {
		return c, nil, r.CheckOrigin(accepted, c)
	}
	return c, func() (redirect.Connection, error) {
		c := rest()
		return c, r.CheckOrigin(accepted, c)
	}, nil
}

// settleRules sweeps what dead bridges left.
func (b *bridge) settleRules(r *iptables.Redirector) error {
	leftovers, err := r.Settle()
	if len(leftovers.Removed) > 0 {
		b.log.Info("took away the rules of an earlier bridge", "chains", strings.Join(leftovers.Removed, ", "))
	}
	if len(leftovers.Kept) > 0 {
		b.log.Warn("chains of an earlier bridge hold rules that no bridge made, and are kept", "chains", strings.Join(leftovers.Kept, ", "))
	}
	return err
}

const guardVerb = "guard"

func guardCommandLine() *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", guardVerb)
	cmd.Stderr = os.Stderr
	return cmd
}

// guardCommand is the process that guards the rules. It is no verb for users.
func guardCommand() *cobra.Command {
	return &cobra.Command{
		Use:    guardVerb,
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			const bridge = 3 // the first of ExtraFiles
			return iptables.RunGuard(os.NewFile(bridge, "bridge"), slog.New(slog.NewJSONHandler(lastWords{cmd.ErrOrStderr()}, nil)))
		},
	}
}
