package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// suiteOutcome is what became of the tests of one package in one machine.
type suiteOutcome struct {
	testBinary
	due    []string // names of the tests that the machine was to run
	output []byte   // what they printed
	ended  *ended   // nil if the machine ended before them

	events []testEvent
	count  count
}

// count counts tests, subtests among them, as go test does.
type count struct{ passed, failed, skipped int }

func (c count) good() bool { return c.passed > 0 && c.failed == 0 && c.skipped == 0 }

func (c count) String() string {
	text := fmt.Sprintf("%d passed", c.passed)
	if c.failed > 0 {
		text += fmt.Sprintf(", %d failed", c.failed)
	}
	if c.skipped > 0 {
		text += fmt.Sprintf(", %d skipped", c.skipped)
	}
	return text
}

// testEvent is one of go test -json.
type testEvent struct {
	Action  string
	Package string
	Test    string   `json:",omitempty"`
	Elapsed *float64 `json:",omitempty"`
	Output  string   `json:",omitempty"`
}

// judge turns what the tests printed into events, and counts. What did not come to an end has failed.
func (s *suiteOutcome) judge() error {
	cmd := exec.Command("go", "tool", "test2json", "-t", "-p", s.pkg)
	cmd.Stdin = bytes.NewReader(s.output)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go tool test2json: %w", err)
	}
	result := make(map[string]string) // of each test; "" for none yet
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var e testEvent
		if err := decoder.Decode(&e); err != nil {
			return fmt.Errorf("events of go test: %w", err)
		}
		ends := slices.Contains([]string{"pass", "fail", "skip"}, e.Action)
		if ends && e.Test == "" {
			continue // by the last line printed; there is more to know
		}
		if ends || e.Action == "run" {
			result[e.Test] = e.Action
		}
		s.events = append(s.events, e)
	}
	for _, test := range s.due {
		if _, ok := result[test]; !ok {
			s.add("output", test, "the machine ended before this test began\n")
			result[test] = "run"
		}
	}
	for test, action := range result {
		switch action {
		case "pass":
			s.count.passed++
		case "skip":
			s.count.skipped++
		default:
			s.count.failed++
			if action == "run" {
				s.add("fail", test, "")
			}
		}
	}
	s.end()
	return nil
}

func (s *suiteOutcome) add(action, test, output string) {
	s.events = append(s.events, testEvent{Action: action, Package: s.pkg, Test: test, Output: output})
}

// end says how the package's tests ended, as go test does by the exit of their process.
func (s *suiteOutcome) end() {
	exit, took := "the machine ended", 0.0
	if s.ended != nil {
		exit, took = s.ended.Exit, s.ended.Took.Seconds()
	}
	action := "pass"
	if exit != "" {
		action = "fail"
		s.add("output", "", "FAIL\t"+exit+"\n")
		if s.count.failed == 0 {
			s.count.failed++ // as for go test, a package that fails without a failed test
		}
	}
	s.events = append(s.events, testEvent{Action: action, Package: s.pkg, Elapsed: &took})
}

// tell says on standard error what became of a machine.
func (r *outcome) tell() {
	for i := range r.suites {
		s := &r.suites[i]
		if err := s.judge(); err != nil {
			r.err = errors.Join(r.err, err)
		}
		var took ended
		if s.ended != nil {
			took = *s.ended
		}
		note("%-12s %-20s %s in %.0f s; %.0f s of processor time", r.name, s.folder, s.count, took.Took.Seconds(), took.Processor.Seconds())
		if !s.count.good() {
			s.tellFailures()
		}
	}
	note("%-12s Linux %s with cgroups %s: %.0f s, of them %.0f to start; %.0f s of processor time",
		r.name, r.kernel.version, r.cgroups, r.took.Seconds(), r.start.Seconds(), r.cpu.Seconds())
	if r.err != nil {
		note("%-12s FAIL: %v", r.name, r.err)
	}
}

// tellFailures prints what the tests printed that did not pass.
func (s *suiteOutcome) tellFailures() {
	bad := map[string]bool{"": true}
	for _, e := range s.events {
		if e.Action == "fail" || e.Action == "skip" {
			bad[e.Test] = true
		}
	}
	for _, e := range s.events {
		if e.Action == "output" && bad[e.Test] && !strings.HasPrefix(e.Output, "=== ") {
			fmt.Fprint(os.Stderr, "    ", e.Output)
		}
	}
}

// publish writes the events of all machines, and the page if asked for.
func publish(o options, outcomes []outcome) error {
	var failed []string
	for _, r := range outcomes {
		var events []testEvent
		good := r.err == nil && len(r.suites) > 0
		for _, s := range r.suites {
			good = good && s.count.good()
			events = append(events, s.events...)
		}
		if r.err != nil {
			events = append(events, blame("kernel "+r.name, r.err)...)
		}
		if err := o.writeEvents("kernels-"+r.name, events); err != nil {
			return err
		}
		if !good {
			failed = append(failed, r.name)
		}
	}
	if o.page != "" {
		if err := writeInto(o.page, o, outcomes); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("not all is well with %s", strings.Join(failed, ", "))
	}
	return nil
}

// blame is the events of what failed without being a test: it counts as one.
func blame(name string, err error) []testEvent {
	return []testEvent{
		{Action: "output", Package: name, Output: err.Error() + "\n"},
		{Action: "fail", Package: name},
	}
}

// writeEvents writes what go test -json would, for .ci/test to count.
func (o options) writeEvents(name string, events []testEvent) error {
	if err := os.MkdirAll(o.results, 0o755); err != nil {
		return err
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	for _, e := range events {
		if err := encoder.Encode(e); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(o.results, name+".json"), text.Bytes(), 0o644)
}
