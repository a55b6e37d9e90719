package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/redirect"
)

func cleanupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what a bridge that died has left behind",
		Long: `Remove the listener's addresses from lo, if a bridge added them and none listens
there any longer. The kernel takes the hook away by itself. A bridge that is stopped
cleans up, and one that starts takes over what is there: this is for hosts that will
run none any more. Needs CAP_NET_ADMIN.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(os.Environ(), cmd.Flags())
			if err != nil {
				return usage(err)
			}
			var errs []error
			for _, at := range []netip.AddrPort{c.Redirect.Listen, c.Redirect.Listen6} {
				if !at.IsValid() {
					continue
				}
				what, err := redirect.RemoveLeftover(at)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", at.Addr(), what)
			}
			return errors.Join(errs...)
		},
	}
	config.Bind(cmd.Flags())
	return cmd
}
