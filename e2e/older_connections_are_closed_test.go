package e2e

import (
	"net/http"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// TestOlderConnectionsAreClosedWhenAskedFor: their owners come back through the bridge.
func TestOlderConnectionsAreClosedWhenAskedFor(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	old := i.startHeld(t)
	b := i.startBridge(t, bridgeOptions{flags: []string{"--redirect.close_connections=true"}})
	if status := old.ask(t); status != http.StatusOK { // on a second connection
		t.Errorf("the second connection gets %d", status)
	}
	line := b.calls(t, 1, pid(old.cmd.Process.Pid))[0]
	if line.Version != "v1" || line.Reason != "mode" || !line.Upgraded {
		t.Errorf("log line: %s", line.raw)
	}
}
