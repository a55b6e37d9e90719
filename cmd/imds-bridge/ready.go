package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imds-bridge/imds-bridge/config"
)

// readyPatience is less than the second that a probe of Kubernetes waits by default.
const readyPatience = 900 * time.Millisecond

func readyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ready",
		Short: "Ask the running bridge whether it is ready",
		Long: `Ask the bridge that runs here whether calls come to it and are served: for the probes of
containers, whose image has no other program to ask with. It asks /readyz at admin.listen,
prints what that says, and fails unless the bridge is ready.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(os.Environ(), cmd.Flags())
			if err != nil {
				return usage(err)
			}
			if c.Admin.Listen == "" {
				return usage(errors.New("admin.listen is off: there is nobody to ask"))
			}
			return askReady(cmd.Context(), c.Admin.Listen, cmd.OutOrStdout())
		},
	}
	config.Bind(cmd.Flags())
	return cmd
}

func askReady(ctx context.Context, listen string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	answer, err := askAdmin(ctx, listen, "/readyz")
	if err != nil {
		return fmt.Errorf("ask the bridge at admin.listen (is it running?): %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	if err != nil {
		return fmt.Errorf("ask the bridge at admin.listen: %w", err)
	}
	said := strings.TrimSpace(string(text))
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", cmp.Or(said, answer.Status))
	}
	fmt.Fprintln(out, said)
	return nil
}
