package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestConfigIsPrintedWithSources(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("mode: observe\nlimits:\n  callers: 100\nupstream.timeout: 400ms\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text, printed := i.printConfig(t, []string{"IMDS_BRIDGE_LIMITS_CALLERS=200", "IMDS_BRIDGE_UPSTREAM_TIMEOUT=500ms"},
		"--config="+file, "--upstream.timeout=700ms", "--redirect.cgroup="+i.Cgroup())
	for key, want := range map[string]printedSetting{
		"mode":             {"observe", file + " line 1"},
		"limits.callers":   {"200", "IMDS_BRIDGE_LIMITS_CALLERS"},
		"upstream.timeout": {"700ms", "--upstream.timeout"},
		"redirect.cgroup":  {i.Cgroup(), "--redirect.cgroup"},
		"redirect.listen":  {"169.254.20.254:8254", "default"},
	} {
		if printed[key] != want {
			t.Errorf("%s: %q, want %q", key, printed[key], want)
		}
	}
	if i.hooks(t) != 0 || i.hasAddress(t, listenAddresses[0]) {
		t.Error("something was begun")
	}

	// What is printed is itself a configuration file, of the same values.
	again := filepath.Join(t.TempDir(), "printed.yaml")
	if err := os.WriteFile(again, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, fedBack := i.printConfig(t, nil, "--config="+again)
	if got, want := withoutSources(fedBack), withoutSources(printed); !maps.Equal(got, want) {
		t.Errorf("fed back: %v, want %v", got, want)
	}
	for key, setting := range fedBack {
		if !strings.HasPrefix(setting.source, again+" line ") {
			t.Errorf("%s fed back comes from %q, want %s", key, setting.source, again)
		}
	}
}

type printedSetting struct{ value, source string }

// printConfig returns what run prints, as text and by key.
func (i *instance) printConfig(t *testing.T, environment []string, flags ...string) (string, map[string]printedSetting) {
	t.Helper()
	cmd := command(t, slices.Concat([]string{"run", "--print-config"}, flags)...)
	cmd.Env = append(cmd.Env, environment...)
	got := finish(t, i.Host().Start, cmd)
	if got.err != nil || got.stderr != "" {
		t.Fatalf("%v, %s", got.err, got.stderr)
	}
	settings := map[string]printedSetting{}
	section := ""
	for line := range strings.Lines(got.stdout) {
		setting, source, sourced := strings.Cut(strings.TrimRight(line, "\n"), "  # ")
		key, value, isSetting := strings.Cut(setting, ":")
		nested := strings.HasPrefix(key, "  ")
		key = strings.TrimSpace(key)
		switch {
		case !isSetting || strings.HasPrefix(key, "#"):
		case !sourced:
			section = key + "."
		case nested:
			settings[section+key] = printedSetting{strings.TrimSpace(value), source}
		default:
			settings[key] = printedSetting{strings.TrimSpace(value), source}
		}
	}
	return got.stdout, settings
}

func withoutSources(settings map[string]printedSetting) map[string]string {
	values := map[string]string{}
	for key, setting := range settings {
		values[key] = setting.value
	}
	return values
}
