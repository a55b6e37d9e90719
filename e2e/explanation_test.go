package e2e

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
)

// explanation is what `imds-bridge explain --output json` says of one process.
type explanation struct {
	Container string
	Processes []struct {
		PID   int
		Ended bool
		Facts []struct{ Name, Value, From, Why string }
		Calls struct {
			V1     int
			Client struct {
				Name, Version, Confidence, From string
				SpeaksV2                        string `json:"speaks_v2"`
			}
			Advice struct{ Code, Text, Link string }
		}
	}
	Sources []struct {
		Source string
		Ready  bool
		Error  string
	}
	Missing []string
}

// explain asks about a process or container with the settings of the bridge.
func (i *instance) explain(t *testing.T, b *bridge, what string, flags ...string) (x explanation, text string) {
	t.Helper()
	return i.explainAs(t, nil, b, what, flags...)
}

// explainAs does so as another user.
func (i *instance) explainAs(t *testing.T, as *syscall.Credential, b *bridge, what string, flags ...string) (x explanation, text string) {
	t.Helper()
	args := append([]string{"explain", what, "--admin.listen=unix:" + b.admin}, flags...)
	for _, output := range []string{"json", "text"} {
		explain := command(t, append(args, "--output="+output)...)
		explain.SysProcAttr = &syscall.SysProcAttr{Credential: as}
		got := finish(t, i.Host().Start, explain)
		if got.err != nil {
			t.Fatalf("explain: %v, %s", got.err, got.stderr)
		}
		if text = got.stdout; output == "json" {
			if err := json.Unmarshal([]byte(text), &x); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
		}
	}
	if len(x.Processes) != 1 {
		t.Fatalf("%d processes are explained:\n%s", len(x.Processes), text)
	}
	return x, text
}

func (x explanation) check(t *testing.T, name, value, from string) {
	t.Helper()
	for _, f := range x.Processes[0].Facts {
		if f.Name == name && f.Value == value && strings.Contains(f.From, from) {
			return
		}
	}
	t.Errorf("not explained: %s %q from %q in %+v", name, value, from, x.Processes[0].Facts)
}

// checkHas wants all the parts in what explain says of one thing.
func (x explanation) checkHas(t *testing.T, name string, parts ...string) {
	t.Helper()
	for _, f := range x.Processes[0].Facts {
		if f.Name != name {
			continue
		}
		for _, part := range parts {
			if !strings.Contains(f.Value, part) {
				t.Errorf("%s: no %q in %q", name, part, f.Value)
			}
		}
		return
	}
	t.Errorf("not explained: %s", name)
}

func (x explanation) checkUnknown(t *testing.T, name, why string) {
	t.Helper()
	for _, f := range x.Processes[0].Facts {
		if f.Name == name && f.Value == "" && strings.Contains(f.Why, why) {
			return
		}
	}
	t.Errorf("not explained: why the %s is unknown (%s) in %+v", name, why, x.Processes[0].Facts)
}

// checkSource wants a source to be ready, or not to be for the reason that err tells.
func (x explanation) checkSource(t *testing.T, n int, err string) {
	t.Helper()
	if len(x.Sources) <= n || x.Sources[n].Ready != (err == "") || !strings.Contains(x.Sources[n].Error, err) {
		t.Errorf("source %d, want %q: %+v", n, err, x.Sources)
	}
}
