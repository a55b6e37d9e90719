package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/attribution"
	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/imds"
)

// endedPID is that of a process that has ended.
func endedPID(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// remembered is what a bridge says of a curl that a script ran, and that has ended.
func remembered(t *testing.T, pid int) any {
	t.Helper()
	rules, err := owner.ParseRules("unit")
	if err != nil {
		t.Fatal(err)
	}
	a := &attributor{Attributor: attribution.New(attribution.Options{Rules: rules})}
	at := time.Now()
	a.Of(attribution.Call{
		Caller: &caller.Caller{
			Origin: caller.Origin{PID: uint32(pid), UID: 33, GID: 33}, Complete: true, Comm: "curl", Executable: "/usr/bin/curl",
			Args: []string{"curl", "-u", "hunter2"}, Started: time.Unix(0, 0), Place: &caller.Place{Unit: "nightly.service"},
			ContainerID: strings.Repeat("ab", 32), ContainerRuntime: "docker",
			Ancestors: []caller.Process{{PID: 5, Comm: "sh", Executable: "/bin/sh", Script: "/srv/nightly.sh"}},
		},
		Kind: imds.V1, Path: "/latest/meta-data/instance-id", Route: "/latest/meta-data/instance-id", UserAgent: "curl/7.61.1",
		Status: 200, Answered: true, Start: at, End: at,
	})
	known, ok := a.called(uint32(pid))
	if !ok {
		t.Fatal("its call is not remembered")
	}
	return known
}

// Of a process that has ended is shown what the bridge remembers: what it was, its calls, and what to do.
func TestExplainEnded(t *testing.T) {
	t.Parallel()
	pid := endedPID(t)
	listen := bridgeThatKnows(t, pid, remembered(t, pid))
	code, out, errs := explainFor(t, "--admin.listen="+listen, fmt.Sprint(pid))
	if code != exitOK || !isSafe(out) {
		t.Fatalf("%d %q %s", code, out, errs)
	}
	for _, want := range []string{
		fmt.Sprintf("process %d has ended; the running bridge remembers of it\n", pid), "curl, started 1970-01-01T00:00:00Z", "executable       /usr/bin/curl",
		"/srv/nightly.sh (5)", " of docker", "image            unknown: no source told the bridge", "owner            nightly.service", "← unit",
		"1 v1, 0 v2, 0 for a token", "curl 7.61.1, likely", "arguments        unknown: the bridge's log",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Count(out, "  instead ") != 2 || strings.Contains(out, "explain is in") || strings.Contains(out, "as of now") || strings.Contains(out, "hunter2") {
		t.Errorf("%s", out)
	}
	code, out, errs = explainFor(t, "--admin.listen="+listen, "--output=json", fmt.Sprint(pid))
	var x explanation
	if err := json.Unmarshal([]byte(out), &x); err != nil || code != exitOK || len(x.Processes) != 1 {
		t.Fatalf("%d %v %s\n%s", code, err, errs, out)
	}
	p := x.Processes[0]
	if !p.Ended || int(p.PID) != pid || p.Calls == nil || p.Calls.V1 != 1 || p.Calls.Advice.Code != "replace-curl" || p.Calls.Facts != nil {
		t.Errorf("%s", out)
	}
	hasFact(t, p.Facts, "executable", "/usr/bin/curl", fmt.Sprintf("/proc/%d/exe", pid))
	hasFact(t, p.Facts, "owner", "nightly.service", "unit")
	for _, f := range p.Facts {
		if (f.Value == "") != (f.Why != "") || f.Value != "" && f.From == "" {
			t.Errorf("a fact without a source, or without a reason: %+v", f)
		}
	}
}

// What listens at admin.listen may be another's.
func TestExplainEndedByAHostileBridge(t *testing.T) {
	t.Parallel()
	pid := endedPID(t)
	listen := bridgeThatKnows(t, pid, calls{Facts: []fact{{Name: hostile, Value: hostile, From: hostile}, {Name: hostile, Why: hostile}}})
	for _, output := range []string{"text", "json"} {
		code, out, errs := explainFor(t, "--admin.listen="+listen, "--output="+output, fmt.Sprint(pid))
		if code != exitOK || !isSafe(out) {
			t.Errorf("%d %q %s", code, out, errs)
		}
	}
}

// Where nobody remembers a process, that is said, and where to look next.
func TestExplainEndedAndForgotten(t *testing.T) {
	t.Parallel()
	pid := endedPID(t)
	for listen, want := range map[string]string{
		"":                                "admin.listen is off",
		"unix:/nonexistent/admin.sock":    "no bridge answers at admin.listen",
		bridgeThatKnows(t, 0, struct{}{}): "remembers no call of it",
	} {
		code, out, errs := explainFor(t, "--admin.listen="+listen, fmt.Sprint(pid))
		if code != exitFailed || out != "" || !strings.Contains(errs, "it has ended, or never was") || !strings.Contains(errs, want) || !strings.Contains(errs, "look for the pid in the bridge's log") {
			t.Errorf("%q: %d %q %q", listen, code, out, errs)
		}
	}
}

// Who asks for what cannot be, or cannot be looked for, is told what would do.
func TestExplainSaysWhatIsWanted(t *testing.T) {
	t.Parallel()
	const noSources = "attribution.docker, attribution.cri"
	for what, want := range map[string][]string{
		"0": {"want a pid or a container"}, "-5": {"explain -5: want a pid or a container"}, strings.Repeat("1", 20): {"want a pid or a container"},
		"009a3686": {"12 digits or more", noSources}, "nonsense": {noSources}, strings.Repeat("ab", 32): {"in a container of that id", noSources},
		"-x": {"unknown shorthand flag"},
	} {
		_, _, errs := explainFor(t, what)
		for _, part := range want {
			if !strings.Contains(errs, part) {
				t.Errorf("%s: no %q in %q", what, part, errs)
			}
		}
	}
}
