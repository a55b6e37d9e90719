package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/simulator"
)

// demoPatience is how long the demo may take in all. It needs about a second.
const demoPatience = 30 * time.Second

func demoCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show an IMDSv1 call before and behind the bridge, on a simulated instance",
		Long: `demo makes network namespaces and a scratch cgroup of its own, with a simulated
metadata service that requires IMDSv2 in one of them. There an unmodified curl makes
an IMDSv1 call directly, then through the bridge, then from a container. It touches
nothing of the host, and takes away what it made.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usage(fmt.Errorf("--output %s: want text or json", output))
			}
			// A reader of the output that goes away must not keep the demo from cleaning up.
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, demoPatience)
			defer cancel()
			result, err := demonstrate(ctx)
			if ctx.Err() != nil {
				return fmt.Errorf("the demo was broken off: %w", context.Cause(ctx))
			}
			if err != nil {
				return err
			}
			if err := result.print(cmd.OutOrStdout(), output); err != nil {
				return fmt.Errorf("print the demo: %w", err)
			}
			return result.check()
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "`format` of what is shown: text or json")
	return cmd
}

// demoResult is what the demo saw. Everything in it was measured.
type demoResult struct {
	Direct struct {
		Status int `json:"status"`
	} `json:"direct"`
	Bridged    demoCall      `json:"bridged"`
	Upgraded   bool          `json:"upgraded"`
	Redirector string        `json:"redirector"`
	Caller     demoCaller    `json:"caller"`
	Trace      demoTrace     `json:"trace"`
	Container  demoContainer `json:"container"`

	logLine string
}

// demoContainer is a call from a container, under the default policy and under containers.v1: upgrade.
type demoContainer struct {
	ID       string   `json:"id"` // as the bridge saw it
	Default  demoCall `json:"default"`
	Upgraded demoCall `json:"upgraded"`
}

// check tells the first thing that was not as the demo is meant to show it.
func (r *demoResult) check() error {
	for _, c := range []struct {
		what      string
		got, want int
	}{
		{"the direct call", r.Direct.Status, http.StatusUnauthorized},
		{"the bridged call", r.Bridged.Status, http.StatusOK},
		{"the container's call under the default policy", r.Container.Default.Status, http.StatusUnauthorized},
		{"the container's call under containers.v1: upgrade", r.Container.Upgraded.Status, http.StatusOK},
	} {
		if c.got != c.want {
			return fmt.Errorf("%s was answered with %d, want %d", c.what, c.got, c.want)
		}
	}
	if !r.Upgraded {
		return errors.New("the bridged call was answered, but not upgraded")
	}
	return nil
}

// demonstrate makes the calls, on an instance made for them.
func demonstrate(ctx context.Context) (_ *demoResult, err error) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		return nil, errors.New("the demo calls with curl, which is not installed: apt-get install curl, or make demo")
	}
	l, err := lab.New(lab.Options{})
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("the demo must be root, to make network namespaces and a scratch cgroup: run it with sudo, or in a privileged container (%w)", err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()

	stop, err := serveMetadata(l)
	if err != nil {
		return nil, err
	}
	defer stop()

	d := demo{ctx: ctx, lab: l, curl: curl, spans: &spanSink{}}
	stopSink, err := d.spans.serve(l.Host())
	if err != nil {
		return nil, err
	}
	defer stopSink()

	var r demoResult
	for _, step := range []func(*demoResult) error{d.direct, d.bridged, d.containerUpgraded} {
		if err := step(&r); err != nil {
			return nil, err
		}
	}
	return &r, nil
}

// serveMetadata runs a simulator that requires IMDSv2 where the metadata service is.
func serveMetadata(l *lab.Lab) (stop func(), err error) {
	sim, err := simulator.New(simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
	if err != nil {
		return nil, fmt.Errorf("make the simulated metadata service: %w", err)
	}
	ln, err := l.IMDS().Listen("tcp4", l.IMDS().Addr().String()+":80")
	if err != nil {
		return nil, fmt.Errorf("serve the simulated metadata service: %w", err)
	}
	go func() { _ = sim.Serve(ln) }() // it ends with Close
	return func() { _ = sim.Close() }, nil
}

// demo is what the steps of the demo share.
type demo struct {
	ctx       context.Context
	lab       *lab.Lab
	curl      string
	spans     *spanSink
	container *lab.Namespace
}

// direct calls from a process that the bridge does not see.
func (d *demo) direct(r *demoResult) error {
	call, err := d.call(d.lab.Host().StartOutside)
	r.Direct.Status = call.Status
	return err
}

// bridged calls from the host and from a container, under the bridge's default policy.
func (d *demo) bridged(r *demoResult) error {
	b, err := startBridge(d.ctx, d.lab)
	if err != nil {
		return err
	}
	defer b.stop()
	r.Redirector = b.redirector()

	if r.Bridged, err = d.call(d.lab.Host().Start); err != nil {
		return err
	}
	line, err := b.lineOf(d.ctx, r.Bridged.pid)
	if err != nil {
		return err
	}
	r.Caller, r.logLine = line.Caller, line.raw
	if r.Trace, err = d.spans.traceOf(d.ctx, r.Bridged.pid); err != nil {
		return err
	}
	r.Upgraded = r.Trace.upgraded

	// The cgroup's name is what a container runtime would give it.
	id := make([]byte, 32)
	rand.Read(id)
	if d.container, err = d.lab.AddContainer("docker-" + hex.EncodeToString(id) + ".scope"); err != nil {
		return err
	}
	if r.Container.Default, err = d.call(d.container.Start); err != nil {
		return err
	}
	if line, err = b.lineOf(d.ctx, r.Container.Default.pid); err != nil {
		return err
	}
	r.Container.ID = line.Caller.container
	return nil
}

// containerUpgraded calls from the container after the operator has allowed it.
func (d *demo) containerUpgraded(r *demoResult) error {
	b, err := startBridge(d.ctx, d.lab, "--containers.v1=upgrade")
	if err != nil {
		return err
	}
	defer b.stop()
	r.Container.Upgraded, err = d.call(d.container.Start)
	return err
}
