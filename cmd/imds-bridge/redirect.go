package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/redirect/iptables"
)

func redirectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "redirect",
		Short: "Put iptables rules in place for a bridge without privileges, or remove them",
		Long: `Rules of iptables in this network namespace, for a bridge that may not put them in place
itself: a sidecar that runs with --redirector iptables --redirect.install false. They
stay until they are removed; while that bridge is away, calls to IMDS are refused.

A bridge with the privilege puts its own rules in place, and needs neither verb.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(redirectInstallCommand(), redirectRemoveCommand())
	return cmd
}

// rulesNeed is what rules without a guard need at least; legacy tables need more, and say so.
var rulesNeed = []string{"CAP_NET_ADMIN"}

func redirectInstallCommand() *cobra.Command {
	var uid uint32
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Redirect calls to IMDS by rules of iptables",
		Long: `Redirect the calls to IMDS of this network namespace to redirect.listen, which should be
on loopback. Needs CAP_NET_ADMIN, and CAP_NET_RAW where iptables keeps legacy tables.

--exempt-uid is the user that the bridge runs as: its own calls are left alone. No
other process should run as that user, for it would go past the bridge unseen.`,
		Example: `  imds-bridge redirect install --exempt-uid 65532 --redirect.listen 127.0.0.1:8254 --redirect.listen6 '[::1]:8254'`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(os.Environ(), cmd.Flags())
			if err != nil {
				return usage(err)
			}
			if err := checkPrivileges(rulesNeed); err != nil {
				return err
			}
			rules := rulesOf(c)
			if cmd.Flags().Changed("exempt-uid") {
				rules.User, rules.Containers, rules.CheckPort = &uid, false, checkPort(c)
			}
			report, err := iptables.Install(rules)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s goes to %s (%s, %s)\n", "169.254.169.254:80", c.Redirect.Listen, report.Program, report.Backend)
			switch {
			case report.NoIPv6 != "":
				fmt.Fprintf(out, "%s is left alone: %s\n", "[fd00:ec2::254]:80", report.NoIPv6)
			case c.Redirect.Listen6.IsValid():
				fmt.Fprintf(out, "%s goes to %s\n", "[fd00:ec2::254]:80", c.Redirect.Listen6)
			}
			return nil
		},
	}
	config.Bind(cmd.Flags())
	cmd.Flags().Uint32Var(&uid, "exempt-uid", 0, "the user that the bridge runs as, for one that may not mark its own sockets; without it they are known by redirect.mark")
	return cmd
}

func redirectRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove",
		Short: "Remove rules of iptables that no running bridge uses",
		Long: `Remove the rules of imds-bridge redirect install, and those of bridges that died. Rules
that somebody else put into a chain of ours are kept, and named.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkPrivileges(rulesNeed); err != nil {
				return err
			}
			return removeRules(cmd.OutOrStdout())
		},
	}
}

// removeRules says what became of the rules that no running bridge uses.
func removeRules(out io.Writer) error {
	l, err := iptables.Sweep(iptables.Tools{})
	for _, chain := range l.Removed {
		fmt.Fprintf(out, "%s: removed\n", chain)
	}
	if len(l.Kept) > 0 {
		err = errors.Join(err, fmt.Errorf("kept, because they hold rules that no bridge made: %s (remove those rules, then the chains)", strings.Join(l.Kept, ", ")))
	}
	if len(l.Removed)+len(l.Kept) == 0 && err == nil {
		fmt.Fprintln(out, "rules of iptables: nothing to remove")
	}
	return err
}
