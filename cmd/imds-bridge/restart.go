package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/imds-bridge/imds-bridge/handover"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
)

const (
	// restartGrace is how long calls wait for a bridge that systemd restarts, before they go on
	// without it.
	restartGrace = 3 * time.Second
	// restartPatience is for what is under way when calls wait: most SDKs do so for a second.
	restartPatience = 400 * time.Millisecond
)

// restartCommand is for the service's ExecStop=. It is no verb for users.
func restartCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "prepare-restart",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			mainPID, err := strconv.Atoi(os.Getenv("MAINPID"))
			if err != nil {
				return nil // the bridge has ended
			}
			path, err := controlPath()
			if err != nil {
				return err
			}
			if err := handover.Restart(cmd.Context(), path, mainPID); err != nil {
				return fmt.Errorf("calls go on without the bridge during its restart: %w", err)
			}
			return nil
		},
	}
}

// leave ends the bridge with its listeners and its hook in place, which systemd keeps: calls wait in the
// listeners' backlog for the bridge that systemd starts next.
func (b *bridge) leave() error {
	b.log.Info("leaves its listeners to systemd, until it is back")
	b.left = true
	b.status.notReady()
	b.pulse.hold() // what waits is not stale, although nobody answers a probe
	b.disown()
	b.acceptNoMore()
	ctx, cancel := context.WithTimeout(context.Background(), restartPatience)
	defer cancel()
	if err := b.proxy.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return b.eyes.detach()
}

// whole is what must outlive the process for calls to wait: links would go with it.
func (b *bridge) whole(h *hook.Hook) (handover.State, error) {
	s, err := b.state(h)
	if err != nil {
		return s, err
	}
	links, err := h.Links()
	if err != nil {
		return s, errors.Join(fmt.Errorf("keep the hook in place: %w", err), s.Close())
	}
	for _, l := range links {
		s.Files[fileLink+l.Name()] = l
	}
	return s, nil
}
