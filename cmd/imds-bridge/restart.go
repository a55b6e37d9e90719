package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
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
		Short:  "Before a restart by systemd, have it keep the listeners and the hook (for ExecStop= of the service)",
		Hidden: true,
		Long: `Ask the bridge that runs as process $MAINPID to give its listeners and its hook to
systemd, if that is about to restart it: calls wait for the next bridge, and none fails.
For a mere stop, or without a bridge, it does nothing. Where calls could not be kept it
says why, with exit code 1: then they go on without a bridge during the restart.

It is for ExecStop= of the service, with all privileges ("+"), to ask systemd for its jobs.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			mainPID, err := strconv.Atoi(os.Getenv("MAINPID"))
			if err != nil {
				return nil // the bridge has ended
			}
			path, err := controlPath()
			if err != nil {
				return err
			}
			if err = runsAs(cmd.Context(), mainPID); err == nil {
				err = handover.Restart(cmd.Context(), path, mainPID)
			}
			if err != nil {
				return fmt.Errorf("calls go on without the bridge during its restart: %w", err)
			}
			return nil
		},
	}
}

// runsAs tries this program, which is the one that comes next, as the user of the one that runs: calls are
// not to wait for what cannot be started.
func runsAs(ctx context.Context, pid int) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	next := exec.CommandContext(ctx, program, "version")
	if os.Geteuid() == 0 {
		uid, gid, err := userOf(pid)
		if err != nil {
			return err
		}
		next.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	}
	if out, err := next.CombinedOutput(); err != nil {
		return fmt.Errorf("the program that is to come next cannot be run: %w %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// userOf is the user and group that a process runs as. Its directory in /proc can be root's all the same.
func userOf(pid int) (uid, gid uint32, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		switch {
		case strings.HasPrefix(line, "Uid:"):
			_, err = fmt.Sscanf(line, "Uid: %d", &uid)
		case strings.HasPrefix(line, "Gid:"):
			_, err = fmt.Sscanf(line, "Gid: %d", &gid)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read the user of process %d: %w", pid, err)
		}
	}
	return uid, gid, nil
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
