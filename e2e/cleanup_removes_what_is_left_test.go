package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestCleanupRemovesWhatADeadBridgeLeft(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	b := i.startBridge(t, bridgeOptions{})
	i.checkCleanup(t, "kept: somebody listens there")
	i.checkAddresses(t, true)
	i.bridgeToken(t) // it still serves

	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-b.exited
	i.checkAddresses(t, true)
	i.checkCleanup(t, "removed from lo")
	i.checkAddresses(t, false)
	i.checkCleanup(t, "nothing to remove")
}

// checkCleanup runs the verb, which is to say the same of each address.
func (i *instance) checkCleanup(t *testing.T, what string) {
	t.Helper()
	got := finish(t, i.Host().Start, command(t, "cleanup"))
	want := []string{"rules of iptables: nothing to remove"}
	for _, address := range listenAddresses {
		want = append(want, address+": "+what)
	}
	if lines := strings.Split(got.stdout, "\n"); got.err != nil || got.stderr != "" || !slices.Equal(lines, want) {
		t.Errorf("cleanup: %v, said %q, want %q; standard error: %s", got.err, lines, want, got.stderr)
	}
}

func (i *instance) checkAddresses(t *testing.T, there bool) {
	t.Helper()
	for _, address := range listenAddresses {
		if i.hasAddress(t, address) != there {
			t.Errorf("%s on lo: %t, want %t", address, !there, there)
		}
	}
}
