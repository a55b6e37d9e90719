// Command kernels runs the tests that meet the kernel under other kernels than this machine's: it boots
// Debian's in virtual machines without a network. It is run by make test-kernels, and needs no root.
//
// The same program is the init of those machines.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// patience bounds a whole run, but for the download of kernels.
const patience = 2 * time.Hour

func main() {
	if os.Getpid() == 1 {
		beInit()
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1) //nolint:forbidigo // the last statement: run has cleaned up
	}
}

// options of a run.
type options struct {
	all      bool   // every test, not CI's choice
	only     string // name of the one machine to boot; "" for all
	test     string // pattern of the tests to run; "" for all that are due
	update   bool   // look for newer kernels
	atOnce   int    // machines
	cache    string // directory of the kernels
	results  string // directory for the events of go test
	page     string // file whose table is replaced; "" for none
	consoles string // directory for what the machines print
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("kernels", flag.ContinueOnError)
	f.BoolVar(&o.all, "all", false, "run every test, not CI's choice")
	f.StringVar(&o.only, "only", "", "boot this `machine` alone")
	f.StringVar(&o.test, "run", "", "run only the tests whose names match this `pattern`")
	f.BoolVar(&o.update, "update", false, "look for newer kernels first")
	f.IntVar(&o.atOnce, "at-once", 2, "machines at a time")
	f.StringVar(&o.cache, "cache", "", "`directory` of the kernels (default: imds-bridge/kernels in the user's cache)")
	f.StringVar(&o.results, "results", "bin/test", "write the events of each machine's go test to `directory`")
	f.StringVar(&o.consoles, "consoles", "bin/kernels", "write what each machine prints to `directory`")
	f.StringVar(&o.page, "page", "", "replace the table in this Markdown `file`")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.atOnce < 1 {
		return o, fmt.Errorf("want one machine at a time or more, and no other arguments")
	}
	if o.page != "" && (o.only != "" || o.test != "") {
		return o, fmt.Errorf("the page tells of every kernel: use -page without -only and -run")
	}
	if o.cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("find the user's cache: %w", err)
		}
		o.cache = filepath.Join(dir, "imds-bridge", "kernels")
	}
	return o, nil
}

func run(args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	// Where an ordinary user's PATH does not lead.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return err
	}
	due, err := choose(o)
	if err != nil {
		return err
	}
	outcomes, err := bootAndTest(ctx, o, due)
	if err != nil {
		return errors.Join(err, o.writeEvents("kernels", blame("kernels", err)))
	}
	return publish(o, outcomes)
}

func bootAndTest(ctx context.Context, o options, due []machine) ([]outcome, error) {
	kernels, err := fetch(ctx, o, due)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	scratch, err := os.MkdirTemp("", "imds-bridge-kernels")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	built, err := build(ctx, scratch)
	if err != nil {
		return nil, err
	}
	return bootAll(ctx, o, due, kernels, built, scratch)
}

// note tells on standard error what is being done: a run takes minutes.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
