package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/doctor"
)

func doctorCommand() *cobra.Command {
	var (
		output string
		askV1  bool
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host can do, with the cause and the remedy of what it cannot",
		Long: `doctor looks at the kernel, the cgroups, the privileges, other programs on the
hooks, firewall rules, routes and the metadata service, with the settings of the
bridge that is to run, and says which redirector it would take. It proves its word
by a trial call: to a scratch cgroup for ebpf, in a network namespace of its own for
iptables. What it makes for that is gone when it ends; nothing else is changed.

It asks the metadata service for a token and the instance's id. Whether IMDSv1 is
still allowed takes a call without a token, which CloudWatch counts: only with --ask-v1.

Exit codes: 0 usable; 1 usable, with the limits that are named; 2 not usable, as are
settings that the bridge would refuse. docs/doctor.md describes each check, and the JSON.`,
		Example: `  imds-bridge doctor
  imds-bridge doctor --redirector iptables --redirect.containers false
  imds-bridge doctor --output json | jq -r '.findings[] | select(.status == "fail") | .remedy'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usage(fmt.Errorf("--output %s: want text or json", output))
			}
			c, err := config.Load(os.Environ(), cmd.Flags())
			if err != nil {
				return usage(err)
			}
			if _, _, err := checkAttribution(c.Attribution); err != nil {
				return err
			}
			if err := checkCgroup(c.Redirect); err != nil {
				return err
			}
			report := doctor.Examine(cmd.Context(), doctorOptions(c, askV1))
			if err := cmd.Context().Err(); err != nil {
				return fmt.Errorf("broken off: %w", err)
			}
			if err := writeReport(cmd, report, output); err != nil {
				return err
			}
			if report.Verdict != doctor.Usable {
				return unfit{report.Verdict}
			}
			return nil
		},
	}
	config.Bind(cmd.Flags())
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	cmd.Flags().BoolVar(&askV1, "ask-v1", false, "ask whether IMDSv1 is allowed, by a call that CloudWatch counts in MetadataNoToken or MetadataNoTokenRejected")
	return cmd
}

// doctorOptions are the settings that matter to the host.
func doctorOptions(c config.Config, askV1 bool) doctor.Options {
	return doctor.Options{
		Redirector: doctor.Redirector(c.Redirector),
		Install:    c.Redirect.Install,
		Cgroup:     c.Redirect.Cgroup,
		Listen:     c.Redirect.Listen,
		Listen6:    c.Redirect.Listen6,
		Containers: c.Redirect.Containers,
		Mark:       uint32(c.Redirect.Mark),
		Needs:      doctorNeeds(c.Redirect.Install),
		Upstream:   c.Upstream.IPv4,
		Upstream6:  c.Upstream.IPv6,
		AskV1:      askV1,
		Guard: func() *exec.Cmd {
			cmd := guardCommandLine()
			cmd.Stderr = nil // the trial says what went wrong
			return cmd
		},
		Child: func(ctx context.Context) *exec.Cmd {
			cmd := exec.CommandContext(ctx, "/proc/self/exe", doctorChildVerb)
			cmd.Env = []string{}
			return cmd
		},
	}
}

func doctorNeeds(install bool) map[doctor.Redirector][]string {
	needs := make(map[doctor.Redirector][]string)
	for _, r := range []doctor.Redirector{doctor.EBPF, doctor.IPTables, doctor.None} {
		needs[r] = privilegesOf(string(r), install).needed
	}
	return needs
}

func writeReport(cmd *cobra.Command, report doctor.Report, output string) error {
	w := cmd.OutOrStdout()
	if output == "json" {
		return report.WriteJSON(w)
	}
	return report.WriteText(w, bool(paintFor(w)))
}

// unfit is the verdict on a host with limits, or one that cannot be used: the exit code of doctor.
type unfit struct{ verdict doctor.Verdict }

func (u unfit) Error() string {
	if u.verdict == doctor.Limited {
		return "this host is usable with limits"
	}
	return "this host is not usable"
}

// exitCode is that of a configuration that is refused, for a host that cannot be used.
func (u unfit) exitCode() int {
	if u.verdict == doctor.Useless {
		return exitUsage
	}
	return exitFailed
}

const doctorChildVerb = "doctor-child"

// doctorChildCommand connects in a trial. It is no verb for users.
func doctorChildCommand() *cobra.Command {
	return &cobra.Command{
		Use:    doctorChildVerb,
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return doctor.Connect(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
