package e2e

import (
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestSIGKILLLeavesCallsGoingStraight(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	b := i.startBridge(t, bridgeOptions{})
	i.bridgeToken(t)

	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-b.exited
	// The kernel takes a link away when its last file is closed, on a work queue.
	await(t, "no hook is left", 5*time.Second, func() bool { return i.hooks(t) == 0 })
	if got := finish(t, i.Host().Start, curl(role)); got.err != nil {
		t.Errorf("curl: %v, %s", got.err, got.stderr)
	}
	if c := i.imds.Counts(); c.V1 != 1 || c.Requests != 1 {
		t.Errorf("a v1 call did not go straight to IMDS: %v", heads(i.imds.Requests()))
	}

	// The next one takes over what a dead bridge cannot take away.
	i.startBridge(t, bridgeOptions{}).stop(t)
	for _, address := range listenAddresses {
		if i.hasAddress(t, address) {
			t.Errorf("%s left on lo", address)
		}
	}
}
