package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
)

func cleanupCommand() *cobra.Command {
	var keepRefusing bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what a bridge that ended has left behind",
		Long: `Remove what a bridge that ended has left behind, and nothing of one that runs:

  - the listener's addresses on lo, if a bridge added them and none listens there;
  - rules of iptables, and those of imds-bridge redirect install;
  - the pinned hook and the rules with which fail: closed refuses calls.

A bridge that is stopped cleans up but for the last, and one that starts takes over what
is there: this is for hosts that will run none any more. Where a bridge with fail: closed
runs it changes nothing, and says whose process that is. Needs CAP_NET_ADMIN; for rules
of legacy tables CAP_NET_RAW; for the pinned hook CAP_BPF.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(os.Environ(), cmd.Flags())
			if err != nil {
				return usage(err)
			}
			out := cmd.OutOrStdout()
			if keepRefusing && c.Fail == failClosed {
				return errors.Join(silenceHook(c.Redirect), cleanAddresses(out, c.Redirect))
			}
			err = cleanHook(out, c.Redirect)
			if errors.Is(err, hook.ErrInUse) {
				return err
			}
			if keepRefusing && errors.Is(err, fs.ErrPermission) {
				err = nil // the service's user, who has pinned nothing
			}
			return errors.Join(err, cleanRules(out), cleanAddresses(out, c.Redirect))
		},
	}
	config.Bind(cmd.Flags())
	cmd.Flags().BoolVar(&keepRefusing, "keep-refusing", false, "under fail: closed, leave in place what refuses calls")
	return cmd
}

// cleanHook returns [hook.ErrInUse] where a bridge has it that runs, or that systemd starts again.
func cleanHook(out io.Writer, r config.Redirect) error {
	pins, err := findPins(r)
	if pins == "" || err != nil {
		return err
	}
	if err := hook.CheckUnused(pins); err != nil {
		return err
	}
	if used, err := redirect.HasListener(r.Listen); err != nil {
		return err
	} else if used {
		return fmt.Errorf("%s: %w: somebody listens at %s (stop it first; ss -ltnp names it)", pins, hook.ErrInUse, r.Listen)
	}
	removed, err := hook.RemovePins(pins)
	if removed {
		fmt.Fprintf(out, "%s: removed\n", pins)
	}
	return err
}

// silenceHook keeps the hook of a dead bridge from sending calls to an address that is about to go. Where
// somebody listens there, calls wait for the bridge that systemd starts.
func silenceHook(r config.Redirect) error {
	pins, err := findPins(r)
	if pins == "" || err != nil {
		return err
	}
	if used, err := redirect.HasListener(r.Listen); err != nil || used {
		return err
	}
	return hook.Silence(pins)
}

// findPins is where a hook is pinned, "" if none is.
func findPins(r config.Redirect) (string, error) {
	cgroup := r.Cgroup
	if cgroup == "" {
		found, err := redirect.FindCgroup()
		if err != nil {
			return "", nil // then no hook was ever attached
		}
		defer found.Close()
		cgroup = found.Path
	}
	pins, err := hook.PinsOf(cgroup)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(pins); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return pins, nil
}

// cleanRules has nothing to do on a host without iptables.
func cleanRules(out io.Writer) error {
	if _, err := exec.LookPath("iptables"); err != nil {
		return nil
	}
	return removeRules(out)
}

func cleanAddresses(out io.Writer, r config.Redirect) error {
	var errs []error
	for _, at := range []netip.AddrPort{r.Listen, r.Listen6} {
		if !at.IsValid() {
			continue
		}
		what, err := redirect.RemoveLeftover(at)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintf(out, "%s: %s\n", at.Addr(), what)
	}
	return errors.Join(errs...)
}
