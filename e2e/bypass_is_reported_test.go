package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// TestBypassIsReported: a connection that is older than the bridge, and one that the hook had to let
// through, are told of by those who made them.
func TestBypassIsReported(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	// Connected before the bridge is there, it asks when told to.
	old := i.startHeld(t)
	b := i.startBridge(t, bridgeOptions{})
	if status := old.ask(t); status != http.StatusOK {
		t.Errorf("the held connection gets %d", status)
	}
	line := b.calls(t, 1, pid(old.cmd.Process.Pid))[0]
	if line.Version != "v1" || line.Reason != "bypass" || line.Status != http.StatusOK || line.Level != "WARN" {
		t.Errorf("log line: %s", line.raw)
	}
	await(t, "the bypass is counted", 5*time.Second, func() bool {
		_, metrics := b.get("/metrics")
		return strings.Contains(metrics, "\nimds_watch_requests_total 1\n") || strings.Contains(metrics, "\nimds_watch_requests_total{otel_scope")
	})
}
