package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// Nothing listens there.
const closedPort = "169.254.169.254:8181"

func TestUnreachableUpstreamIsTold(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"upgrade", "observe", "enforce"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			i := newInstance(t, simulator.Options{})
			b := i.startBridge(t, bridgeOptions{flags: []string{"--mode=" + mode, "--upstream.ipv4=" + closedPort}})
			await(t, "a warning that names the setting and the next step", 5*time.Second, func() bool {
				for _, line := range b.records(t) {
					if line.Level == "WARN" && strings.Contains(line.Msg, "upstream.ipv4") && strings.Contains(line.Msg, "route") {
						return true
					}
				}
				return false
			})
			// A call that enforce lets through too: one for a token.
			call := curl("/latest/api/token", append([]string{"--write-out", "%{http_code}", "--output", "/dev/null"}, putToken...)...)
			if got := finish(t, i.Host().Start, call); got.stdout != "503" {
				t.Errorf("the caller got %q, want 503: %v, %s", got.stdout, got.err, got.stderr)
			}
			if n := i.imds.Counts().Requests; n != 0 {
				t.Errorf("%d requests reached IMDS, which is not where upstream.ipv4 points", n)
			}
		})
	}
}
