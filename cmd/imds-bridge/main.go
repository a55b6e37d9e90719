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

	"github.com/spf13/cobra"
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
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
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "imds-bridge: %s\n", err)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "imds-bridge: %s\n", err)
		return exitFailed
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "imds-bridge",
		Short: "Bring IMDSv1 calls to IMDSv2, and say who makes them",
		Long: `imds-bridge stands between the workloads of an EC2 host and the instance
metadata service. A kernel hook on connect() brings their calls to a local proxy,
which names the caller, upgrades IMDSv1 calls to IMDSv2 and reports each call as
a log line, an OpenTelemetry trace and metrics.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w (see %s --help)", usage(err), cmd.CommandPath())
	})
	root.AddCommand(runCommand(), demoCommand(), simulateCommand(), versionCommand(), selfCheckCommand())
	return root
}

// usage marks err as an error of usage without changing what it says.
func usage(err error) error { return usageError{err} }

type usageError struct{ error }

func (usageError) Is(target error) bool { return target == errUsage }
func (e usageError) Unwrap() error      { return e.error }
