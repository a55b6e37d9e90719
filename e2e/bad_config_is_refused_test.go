package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestBadConfigIsRefusedWithLineAndNearestMatch(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("mode: upgrade\ncontaniers:\n  v1: deny\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := finish(t, i.Host().Start, command(t, "run", "--config="+file))
	if got.ProcessState.ExitCode() != 2 {
		t.Errorf("%s, want exit code 2", got.ProcessState)
	}
	for _, want := range []string{"config.yaml line 2", `"contaniers"`, `"containers"`} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("standard error does not say %s: %s", want, got.stderr)
		}
	}
	if i.hasAddress(t, listenAddresses[0]) || i.hooks(t) != 0 {
		t.Error("something was begun")
	}
}

// A cgroup that is not there is not the whole host.
func TestMissingCgroupIsRefused(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	missing := filepath.Join(i.Cgroup(), "typo.service")
	for _, redirector := range []string{"auto", "ebpf", "iptables", "none"} {
		for _, verb := range []string{"run", "doctor"} {
			got := finish(t, i.Host().Start, command(t, verb, "--redirector="+redirector, "--redirect.cgroup="+missing))
			if got.ProcessState.ExitCode() != 2 || !strings.Contains(got.stderr, "redirect.cgroup: ") || !strings.Contains(got.stderr, missing) {
				t.Errorf("%s, %s: %s, %s", verb, redirector, got.ProcessState, got.stderr)
			}
		}
		if i.hasAddress(t, listenAddresses[0]) || i.hooks(t) != 0 {
			t.Errorf("%s: something was begun", redirector)
		}
	}
}
