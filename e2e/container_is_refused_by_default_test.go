package e2e

import (
	"net/http"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// The answer is that of IMDS, which the call reaches as it came.
func TestContainerIsRefusedByDefault(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
	d := i.startDocker(t)
	b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup})

	id, got := d.plain(t, "bridge")
	if got.Status != http.StatusUnauthorized || got.AccessKeyID != "" {
		t.Errorf("the container got %+v, want 401", got)
	}
	line := b.calls(t, 1, inContainer(id))[0]
	if line.Version != "v1" || line.Upgraded || line.Verdict != "pass" || line.Reason != "containers" || line.Status != http.StatusUnauthorized {
		t.Errorf("log line: %s", line.raw)
	}
	if c := i.imds.Counts(); c.V1 != 1 || c.V2 != 0 {
		t.Errorf("reached IMDS: %d v1 calls and %d v2 calls, want 1 and 0", c.V1, c.V2)
	}
}
