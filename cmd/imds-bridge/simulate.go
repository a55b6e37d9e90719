package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// simulateFlags are the flags of the verb simulate that are not fields of the simulator's options.
type simulateFlags struct {
	listen    []string
	control   string
	tree      string
	printTree bool
	logLevel  string
}

func simulateCommand() *cobra.Command {
	var (
		flags   simulateFlags
		options simulator.Options
	)
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Serve a strict stand-in for the instance metadata service",
		Long: `simulate answers as the metadata service of one EC2 instance: IMDSv1 and IMDSv2,
session tokens and their rules, status lines and headers as on the wire, the end
of the connection after every answer, and the IP TTL of the answers to PUT.

What it serves is obviously made up, the credentials are the examples of the AWS
documentation. Another tree is read with --tree; --print-tree shows the built-in
one, which explains the format.

The control endpoint lets another process read what was seen and change how the
simulator behaves:

  GET  /counts, GET /requests, POST /reset, POST /expire-tokens
  GET or POST /behaviour         {"delay":"300ms","status":503,"only":"token"}
  GET or POST /metadata-options  {"HttpTokens":"required"}

A line that starts with "listening on" is written to standard error once it serves.`,
		Example: `  # an instance that still takes IMDSv1
  imds-bridge simulate
  curl http://127.0.0.1:1338/latest/meta-data/instance-id

  # one that requires tokens, over IPv4 and IPv6, and lets them travel two hops
  imds-bridge simulate --listen 127.0.0.1:1338 --listen [::1]:1338 --http-tokens required --hop-limit 2

  # token requests that hang, until another process says otherwise
  imds-bridge simulate --drop hang --only token --control unix:/tmp/imds.sock
  curl --unix-socket /tmp/imds.sock -d '{"drop":""}' http://control/behaviour`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.printTree {
				_, err := cmd.OutOrStdout().Write(simulator.BuiltInYAML)
				return err
			}
			return simulate(cmd.Context(), cmd.ErrOrStderr(), flags, options)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&flags.listen, "listen", []string{"127.0.0.1:1338"}, "address and port to serve on; may be repeated")
	f.StringVar(&flags.control, "control", "", "serve the control endpoint on unix:/path or a loopback address and port")
	f.StringVar(&flags.tree, "tree", "", "YAML file of what to serve instead of the built-in tree")
	f.BoolVar(&flags.printTree, "print-tree", false, "print the built-in tree and exit")
	f.StringVar(&flags.logLevel, "log-level", "info", "debug, info, warn or error; debug has a line for each request")

	m := &options.Metadata
	f.StringVar(&m.HTTPTokens, "http-tokens", simulator.TokensOptional, "optional or required")
	f.StringVar(&m.HTTPEndpoint, "http-endpoint", simulator.Enabled, "enabled or disabled (403 to all)")
	f.IntVar(&m.HTTPPutResponseHopLimit, "hop-limit", 1, "IP TTL of the answers to PUT, 1 to 64")
	f.StringVar(&m.InstanceMetadataTags, "instance-metadata-tags", simulator.Disabled, "enabled or disabled")

	b := &options.Behaviour
	f.DurationVar(&b.Delay, "delay", 0, "wait before every answer")
	f.StringVar(&b.Drop, "drop", "", "do not answer: close or hang")
	f.IntVar(&b.Status, "status", 0, "answer everything with this status, 400 to 599")
	f.StringVar(&b.Only, "only", "", "delay, drop and status for token or data requests alone")
	f.BoolVar(&b.OlderBackend, "older-backend", false, "answer as hosts of earlier generations do")
	f.BoolVar(&b.KeepAlive, "keep-alive", false, "leave connections open, which IMDS never does")
	return cmd
}

// simulate serves until ctx ends, which is not an error.
func simulate(ctx context.Context, stderr io.Writer, flags simulateFlags, options simulator.Options) error {
	sim, err := newSimulator(stderr, flags, options)
	if err != nil {
		return usage(err)
	}
	defer sim.Close()
	group, ctx := errgroup.WithContext(ctx)

	var addresses []string
	for _, address := range flags.listen {
		listener, err := listenPlain(ctx, "tcp", address)
		if err != nil {
			return err
		}
		group.Go(func() error { return sim.Serve(listener) })
		addresses = append(addresses, listener.Addr().String())
	}
	if flags.control != "" {
		listener, err := listenControl(ctx, flags.control)
		if err != nil {
			return err
		}
		control := &http.Server{Handler: sim.Control(), ReadHeaderTimeout: 5 * time.Second}
		defer control.Close()
		group.Go(func() error { return control.Serve(listener) })
		context.AfterFunc(ctx, func() { control.Close() })
		addresses = append(addresses, "control "+listener.Addr().String())
	}
	context.AfterFunc(ctx, func() { sim.Close() })
	fmt.Fprintf(stderr, "listening on %s\n", strings.Join(addresses, ", "))

	if err := group.Wait(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func newSimulator(stderr io.Writer, flags simulateFlags, options simulator.Options) (*simulator.Simulator, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(flags.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %s: want debug, info, warn or error", flags.logLevel)
	}
	options.Logger = slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level}))
	if flags.tree != "" {
		tree, err := simulator.ReadTree(flags.tree)
		if err != nil {
			return nil, err
		}
		options.Tree = tree
	}
	return simulator.New(options)
}

// listenPlain announces without Multipath TCP, which IMDS does not speak.
func listenPlain(ctx context.Context, network, address string) (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	return config.Listen(ctx, network, address)
}

// listenControl refuses addresses that others could reach: the endpoint shows tokens.
func listenControl(ctx context.Context, address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenPlain(ctx, "unix", path)
	}
	listener, err := listenPlain(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if !listener.Addr().(*net.TCPAddr).IP.IsLoopback() {
		listener.Close()
		return nil, usage(errors.New("--control " + address + ": want unix:/path or an address on loopback"))
	}
	return listener, nil
}
