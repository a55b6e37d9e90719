package e2e

import (
	"fmt"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestShortLivedCallersAreNamed(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
	b := i.startBridge(t, bridgeOptions{})
	const callers = 20
	var processes [callers]ended
	for n := range processes {
		processes[n] = finish(t, i.Host().Start, curl("/latest/meta-data/ami-id", "--user-agent", fmt.Sprintf("caller-%d", n)))
		if processes[n].err != nil {
			t.Fatalf("curl: %v, %s", processes[n].err, processes[n].stderr)
		}
	}
	for n, process := range processes {
		lines := b.calls(t, 1, pid(process.Process.Pid))
		if len(lines) != 1 {
			t.Errorf("%d lines for caller %d", len(lines), n)
		}
		checkNamed(t, lines[0], process, client{agent: fmt.Sprintf("caller-%d", n)})
	}
}
