package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// A container that lives for two calls and is removed at once is named all the same, from its first call
// on: its daemon tells of it before it runs.
func TestAttributionNamesContainersThatAreGone(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	d := i.startDocker(t)
	b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup, flags: dockerAlone(d.socket)})
	const containers = 5
	for n := range containers {
		out := d.run(t, nil, "run", "--rm", "--network=host", fmt.Sprintf("--name=job-%d", n), "--label=team=batch", "plain", "/plain")
		var got plainResult
		if err := json.Unmarshal([]byte(out), &got); err != nil || got.Status != http.StatusOK {
			t.Fatalf("the container: %v, %s", err, out)
		}
	}
	if left := d.run(t, nil, "ps", "--all", "--quiet"); left != "" {
		t.Errorf("not removed: %s", left)
	}
	byPlain := func(r record) bool { return r.Caller.Exe == "/plain" }
	b.calls(t, 2*containers, byPlain) // all lines are there
	told := make(map[string]int)
	b.find(t, func(a attributed) bool {
		if !byPlain(a.record) {
			return false
		}
		told[a.Caller.Container.Name]++
		if who := a.Caller; who.Container.Image != "plain:latest" || who.Owner.Name != "batch" || a.record.Caller.ContainerRuntime != "docker" {
			t.Errorf("log line: %s", a.raw)
		}
		return false
	})
	for n := range containers {
		if name := fmt.Sprintf("job-%d", n); told[name] != 2 {
			t.Errorf("%d lines tell of %s: %v", told[name], name, told)
		}
	}
}
