package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/telemetry"
)

// How long the last phases of a run may take.
const (
	drainPatience = 5 * time.Second
	flushPatience = 3 * time.Second
)

func runCommand() *cobra.Command {
	var printConfig, takeover bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the bridge",
		Long: `Redirect this host's calls to the instance metadata service to the bridge, until
SIGTERM, SIGINT or SIGHUP. Needs root, or the capabilities ` + strings.Join(privilegesOf("ebpf", true).needed, " ") + `;
with iptables ` + strings.Join(privilegesOf(redirectIPTables, true).needed, " ") + `.

Settings come from --config, then from IMDS_BRIDGE_* variables, then from flags.
Telemetry is set up by the standard OTEL_* variables; without any, there are logs alone.`,
		Example: `  imds-bridge run
  imds-bridge run --redirector none
  imds-bridge run --mode observe --log.level debug
  imds-bridge run --takeover
  OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 imds-bridge run
  imds-bridge run --print-config`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			defer func() {
				if err != nil { // calls do not wait for a bridge that does not come
					err = errors.Join(err, dropKept())
				}
			}()
			c, err := config.Load(os.Environ(), cmd.Flags())
			if err != nil {
				return usage(err)
			}
			if err := telemetry.CheckEnvironment(); err != nil {
				return usage(err)
			}
			if printConfig {
				if _, _, err := checkAttribution(c.Attribution); err != nil {
					return err
				}
				_, err := cmd.OutOrStdout().Write(c.YAML())
				return err
			}
			// A reader of our log that goes away is no reason to end.
			signal.Ignore(syscall.SIGPIPE)
			frugal()
			return runBridge(cmd.Context(), c, takeover, cmd.ErrOrStderr())
		},
	}
	config.Bind(cmd.Flags())
	cmd.Flags().BoolVar(&printConfig, "print-config", false, "print the effective configuration and where each setting comes from, then exit")
	cmd.Flags().BoolVar(&takeover, "takeover", false, "take the place of the bridge that runs, if one does, once this one has proven itself; that one then ends")
	return cmd
}

// frugal fits Go's runtime to an agent that shares a host with its workloads: one thread at a time
// does what IMDS allows (some hundred calls a second and network interface) many times over, and
// spares each call the waking of others. GOMAXPROCS and GOGC change that as usual.
func frugal() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}

// runBridge runs the phases of the bridge's life in order.
func runBridge(ctx context.Context, c config.Config, takeover bool, logs io.Writer) (err error) {
	chosen, err := choose(c)
	if err != nil {
		return err
	}
	if err := checkPrivileges(privilegesOf(chosen.redirector, c.Redirect.Install).needed); err != nil {
		return err
	}
	t, err := telemetry.Start(ctx, telemetry.Options{Version: version, Level: c.Log.Level, Logs: logs})
	if err != nil {
		return usage(fmt.Errorf("set up telemetry: %w", err))
	}
	patience := flushPatience
	defer func() { flush(t, logs, patience) }()
	log := t.Logger()
	// Whoever reads the log as JSON learns of the end too.
	defer func() {
		if err != nil {
			log.Error("stopped", "error", err.Error())
		}
	}()
	log.Info("starting", "version", version, "redirector", chosen.redirector, "choice", chosen.why, "fail", c.Fail, "mode", c.Mode, "containers_v1", c.Containers.V1, "containers_tokens", c.Containers.Tokens, "resource", t.Resource())

	before, err := findPredecessor(c, chosen, takeover, log)
	if err != nil {
		return err
	}
	b, err := begin(ctx, c, chosen, before, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()

	if err := dropPrivileges(privilegesOf(b.status.choice.redirector, c.Redirect.Install).kept); errors.Is(err, errCgo) {
		log.Warn("capabilities are kept", "error", err.Error())
	} else if err != nil {
		return err
	}
	if err := b.prove(ctx); err != nil {
		return err
	}
	from := b.status.setReady()
	notify(log, daemon.SdNotifyReady)
	log.Info("ready", "redirector", b.status.choice.redirector, "cgroup", b.cgroup.Path, "listen", c.Redirect.Listen.String(), "coverage_from", from)

	b.serveControl()
	watched, stop := context.WithCancel(ctx)
	defer stop()
	go b.feedWatchdog(watched)
	go b.warmUp()
	if b.proxy != nil {
		go b.attributor.tags.watch(watched, b.proxy.Read)
	}
	select {
	case <-b.succeeded:
	case <-ctx.Done():
	case err = <-b.failed:
	}
	if b.isSucceeded() {
		return errors.Join(err, b.retire())
	}
	if ctx.Err() != nil && b.restarting.Load() {
		patience = restartPatience
		return b.leave()
	}
	notify(log, daemon.SdNotifyStopping)
	log.Info("stopping")
	return errors.Join(err, b.drain())
}

// begin listens, serves and redirects. Where auto's first choice cannot be had after all, it takes the
// next, and says so.
func begin(ctx context.Context, c config.Config, chosen choice, before *predecessor, t *telemetry.Telemetry) (*bridge, error) {
	b, err := newBridge(ctx, c, chosen, before, t)
	if err != nil {
		return nil, err
	}
	if err = b.attach(); err == nil {
		return b, nil
	}
	err = errors.Join(err, b.close())
	if before.isLive() { // which serves on, by the first choice
		return nil, err
	}
	next, nextErr := chooseAfter(c, chosen, err)
	if nextErr != nil {
		return nil, nextErr
	}
	t.Logger().Warn("the redirector that was chosen cannot be had", "redirector", chosen.redirector, "error", err.Error(), "instead", next.redirector)
	return begin(ctx, c, next, nil, t)
}

// prove makes a call of our own, and only then takes the redirection for good.
func (b *bridge) prove(ctx context.Context) error {
	b.closeEarlier()
	if b.before.isLive() {
		return b.takeOver(ctx)
	}
	if err := b.check.run(ctx, b.cgroup.Path); err != nil {
		return err
	}
	if err := b.settle(); err != nil {
		return err
	}
	return b.inherit()
}

// flush sends what telemetry is left, on time that the end of the run does not cut short. A
// collector that does not take it is no failure of the run.
func flush(t *telemetry.Telemetry, logs io.Writer, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := t.Shutdown(ctx); err != nil {
		slog.New(slog.NewJSONHandler(lastWords{logs}, nil)).Warn("telemetry was not all sent", "error", err.Error())
	}
}

// notify tells systemd. Without systemd there is nobody to tell, which is no error.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("tell systemd", "state", state, "error", err.Error())
	}
}
