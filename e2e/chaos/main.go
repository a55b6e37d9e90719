// Command chaos reads the events of the tests that break things, shows them as go test would, and makes
// of what they tell the table in docs/reliability.md. It is run by make test-chaos.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	page := flag.String("page", "", "replace the table in this Markdown `file`, if all tests pass")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *page); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1) //nolint:forbidigo // the last statement
	}
}

// event is one of go test -json, as far as it matters here.
type event struct {
	Action, Test       string
	Output, Key, Value string
}

// outcome is what one test tells of one fault: see the type of that name in the tests.
type outcome struct {
	Fault              string
	Times              int
	V1, V2             int
	FailedV1, FailedV2 int
	Past               int
	Straight, Back     time.Duration
	Slowest            time.Duration
}

func run(events io.Reader, show io.Writer, page string) error {
	start := time.Now()
	outcomes, err := read(events, show)
	if err != nil {
		return err
	}
	if len(outcomes) == 0 {
		return errors.New("no test told of a fault")
	}
	text, err := markdown(outcomes, start)
	if err != nil {
		return err
	}
	fmt.Fprint(show, "\n", text)
	if page == "" {
		return nil
	}
	return writeInto(page, text)
}

var errFailed = errors.New("a test failed: the page stays as it was")

func read(events io.Reader, show io.Writer) (outcomes []outcome, err error) {
	lines := bufio.NewReader(events)
	for {
		line, reading := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				e = event{Action: "output", Output: string(line)} // what is no event comes from go itself
			}
			switch {
			case e.Action == "attr" && e.Key == "outcome":
				var o outcome
				if err := json.Unmarshal([]byte(e.Value), &o); err != nil {
					return nil, fmt.Errorf("%s: read the outcome: %w", e.Test, err)
				}
				outcomes = append(outcomes, o)
			case e.Action == "fail":
				err = errFailed
			}
			fmt.Fprint(show, e.Output)
		}
		if reading == io.EOF {
			return outcomes, err
		}
		if reading != nil {
			return nil, fmt.Errorf("read the tests' events: %w", reading)
		}
	}
}
