package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// A container gets a token through the bridge exactly where it gets one without.
func TestHopLimitKeepsTokensFromContainers(t *testing.T) {
	t.Parallel()
	for hops, reaches := range map[int]bool{1: false, 2: true} {
		t.Run(fmt.Sprint(hops), func(t *testing.T) {
			t.Parallel()
			i := newInstance(t, simulator.Options{Metadata: simulator.MetadataOptions{
				HTTPTokens: simulator.TokensRequired, HTTPPutResponseHopLimit: hops,
			}})
			key := i.credentials(t).AccessKeyID
			d := i.startDocker(t)
			_, direct := d.plain(t, "bridge", "-v2")
			b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup})
			id, bridged := d.plain(t, "bridge", "-v2")

			if direct != bridged {
				t.Errorf("through the bridge %+v, without %+v", bridged, direct)
			}
			if reaches && (bridged.Status != http.StatusOK || bridged.AccessKeyID != key) {
				t.Errorf("the container got %+v, want key %s", bridged, key)
			}
			if !reaches && bridged.Status != 0 { // no answer
				t.Errorf("the container got %+v, want to wait in vain", bridged)
			}
			for _, line := range b.calls(t, 1, inContainer(id)) {
				if line.Version == "v1" || line.Upgraded {
					t.Errorf("log line: %s", line.raw)
				}
			}
		})
	}
}
