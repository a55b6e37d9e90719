// Command bench compares the bridge with nginx and haproxy, side by side in one run, and measures
// what else docs/performance.md promises. It needs root, and is run by make bench.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// patience bounds a whole run.
const patience = 10 * time.Minute

// roles are what this program does in processes of its own, in the namespaces of a lab.
var roles = map[string]func(args []string) error{
	"upstream":    upstreamRole,
	"collect":     collectRole,
	"load":        loadRole,
	"call":        callRole,
	"attribution": attributionRole,
	"callers":     callersRole,
	"connects":    connectsRole,
	"packets":     packetsRole,
	"paced":       pacedRole,
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:forbidigo // the last statement: run has cleaned up
	}
}

func run(args []string) error {
	if len(args) > 0 {
		if role, ok := roles[args[0]]; ok {
			return role(args[1:])
		}
	}
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()

	result, err := measure(ctx, o)
	if err != nil {
		return err
	}
	return result.publish(o)
}

// options of a run.
type options struct {
	bridge  string        // the binary
	rounds  int           // of the comparison
	slice   time.Duration // of load: one proxy, one number of connections, one round
	callers int           // different ones
	starts  int
	json    string // file to write the result to; "" for none
	page    string // file whose table is replaced; "" for none
	profile string // directory for profiles of the bridges; "" for none
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.bridge, "bridge", "bin/imds-bridge", "the bridge's `binary`")
	f.IntVar(&o.rounds, "rounds", 9, "rounds of the comparison, each with every proxy")
	f.DurationVar(&o.slice, "slice", time.Second, "load on one proxy in one round")
	f.IntVar(&o.callers, "callers", 10_000, "different callers")
	f.IntVar(&o.starts, "starts", 11, "starts of the bridge")
	f.StringVar(&o.json, "json", "", "write all figures to `file`")
	f.StringVar(&o.page, "page", "", "replace the table in this Markdown `file`")
	f.StringVar(&o.profile, "profile", "", "write profiles of the bridges under load to `directory`")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.rounds < 1 || o.starts < 1 || o.callers < 4*window || f.NArg() > 0 {
		return o, fmt.Errorf("want at least one round, one start and %d callers, and no other arguments", 4*window)
	}
	return o, nil
}

// publish prints the result and writes it where the options say.
func (r *result) publish(o options) error {
	fmt.Print(r.markdown())
	if o.json != "" {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return fmt.Errorf("encode the figures: %w", err)
		}
		if err := os.WriteFile(o.json, append(text, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the figures: %w", err)
		}
	}
	if err := r.Comparison.failed(); err != nil {
		return err // such figures are for nobody's page
	}
	if o.page != "" {
		return r.writeInto(o.page)
	}
	return nil
}

// note tells on standard error what is being measured: a run takes minutes.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
