// Command imds-bridge brings IMDSv1 calls of a host's workloads to IMDSv2.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	// Root certificates for a collector with TLS, on hosts and in images that have none.
	_ "golang.org/x/crypto/x509roots/fallback"
)

// Exit codes of every verb.
const (
	exitOK     = 0 // done as asked
	exitFailed = 1 // tried, and could not
	exitUsage  = 2 // the call or the configuration is wrong; nothing was tried
)

// errUsage marks an error as the caller's: exit code 2.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	stderr = lastWords{stderr}
	var verdict unfit
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &verdict): // the report has said all there is to say
		return verdict.exitCode()
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "imds-bridge: %s\n", err)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "imds-bridge: %s\n", err)
		return exitFailed
	}
}

// lastWords are written unless nobody reads them: a reader of our log that hangs must not keep us from
// ending.
type lastWords struct{ to io.Writer }

// lastWordsPatience is how long a reader may take.
const lastWordsPatience = time.Second

func (w lastWords) Write(line []byte) (int, error) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = w.to.Write(line)
	}()
	select {
	case <-written:
	case <-time.After(lastWordsPatience):
	}
	return len(line), nil
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "imds-bridge",
		Short: "Bring IMDSv1 calls to IMDSv2, and say who makes them",
		Long: `imds-bridge stands between the workloads of an EC2 host and the instance
metadata service. A kernel hook on connect(), or rules of iptables, bring their calls to a
local proxy, which names the caller, upgrades IMDSv1 calls to IMDSv2 and reports each call as
a log line, an OpenTelemetry trace and metrics.

Exit codes: 0 done; 1 tried, and could not; 2 the call or the configuration is wrong,
and nothing was tried.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usage(unknownVerb(cmd, args[0]))
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w (see %s --help)", usage(err), cmd.CommandPath())
	})
	root.AddCommand(runCommand(), doctorCommand(), doctorChildCommand(), explainCommand(), demoCommand(), simulateCommand(), cleanupCommand(), redirectCommand(), readyCommand(), versionCommand(), selfCheckCommand(), restartCommand(), guardCommand())
	return root
}

func unknownVerb(root *cobra.Command, verb string) error {
	root.SuggestionsMinimumDistance = 2
	if near := root.SuggestionsFor(verb); len(near) > 0 {
		return fmt.Errorf("unknown verb %q; did you mean %q? (see imds-bridge --help)", verb, near[0])
	}
	return fmt.Errorf("unknown verb %q (see imds-bridge --help)", verb)
}

// noArgs is for verbs that take flags alone.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(fmt.Errorf("%s takes no argument %q (see %s --help)", cmd.Name(), args[0], cmd.CommandPath()))
	}
	return nil
}

// usage marks err as an error of usage without changing what it says.
func usage(err error) error { return usageError{err} }

type usageError struct{ error }

func (usageError) Is(target error) bool { return target == errUsage }
func (e usageError) Unwrap() error      { return e.error }
