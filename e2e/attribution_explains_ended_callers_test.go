package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// A curl of a script has ended long before anybody reads its log line. By the pid of that line explain says
// what the bridge remembers: what ran it, what it called, and the commands to put in its place.
func TestAttributionExplainsEndedCallers(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	flags := []string{"--attribution.docker=", "--attribution.cri=", "--attribution.ecs=off", "--attribution.kubernetes=off"}
	b := i.startBridge(t, bridgeOptions{flags: flags})

	call := curl("/latest/meta-data/instance-id")
	script := filepath.Join(t.TempDir(), "nightly.sh")
	if err := os.WriteFile(script, []byte(strings.Join(call.Args, " ")+"\necho\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := finish(t, i.Host().Start, client{args: []string{"/bin/sh", script}}.command()); got.err != nil || got.stdout == "" {
		t.Fatalf("%s: %v %q %s", script, got.err, got.stdout, got.stderr)
	}
	var line attributed
	await(t, "a log line of the call", 10*time.Second, func() (ok bool) {
		line, ok = b.find(t, func(a attributed) bool { return a.By.Name == "curl" })
		return ok
	})

	x, text := i.explain(t, b, fmt.Sprint(line.Caller.PID), flags...)
	told := x.Processes[0]
	if !told.Ended || told.Calls.V1 != 1 || told.Calls.Client.Name != "curl" || told.Calls.Advice.Code != "replace-curl" || told.Calls.Advice != line.Advice {
		t.Errorf("explain: %+v, the log: %s", told, line.raw)
	}
	x.check(t, "executable", line.record.Caller.Exe, "/proc/")
	x.check(t, "container", "none", "its cgroup")
	x.checkHas(t, "ancestors", script)
	x.checkHas(t, "instead", "/latest/api/token")
	if !strings.Contains(text, fmt.Sprintf("process %d has ended; the running bridge remembers of it\n", line.Caller.PID)) || strings.Count(text, "\n  instead ") != 2 {
		t.Errorf("explain:\n%s", text)
	}
	// /callers alone knows no more than that.
	var page struct{ Facts []struct{ Name string } }
	if _, body := b.get(fmt.Sprintf("/callers?pid=%d", line.Caller.PID)); json.Unmarshal([]byte(body), &page) != nil || len(page.Facts) == 0 || strings.Contains(body, `"arguments"`) {
		t.Errorf("/callers: %s", body)
	}

	for what, want := range map[string]struct {
		code int
		says string
	}{
		"1073741824": {1, "it has ended, or never was; the running bridge remembers no call of it"}, "-5": {2, "want a pid or a container"},
	} {
		got := finish(t, i.Host().Start, command(t, append([]string{"explain", what, "--admin.listen=unix:" + b.admin}, flags...)...))
		if got.ProcessState.ExitCode() != want.code || !strings.Contains(got.stderr, want.says) {
			t.Errorf("explain %s: %s, %s", what, got.ProcessState, got.stderr)
		}
	}
}
