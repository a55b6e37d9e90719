package e2e

import (
	"net/http"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestContainerIsUpgradedWhenAskedFor(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
	key := i.credentials(t).AccessKeyID
	d := i.startDocker(t)
	b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup, flags: []string{"--containers.v1=upgrade"}})

	id, got := d.plain(t, "bridge")
	if got.Status != http.StatusOK || got.AccessKeyID != key {
		t.Errorf("the container got %+v, want key %s", got, key)
	}
	for _, line := range b.calls(t, 2, inContainer(id)) {
		who := line.Caller
		if line.Version != "v1" || !line.Upgraded || line.Reason != "containers" || line.Status != http.StatusOK {
			t.Errorf("log line: %s", line.raw)
		}
		if who.ContainerRuntime != "docker" || who.HostNetwork || who.Comm != "plain" || who.Exe != "/plain" || who.PID == 0 {
			t.Errorf("caller: want /plain in a Docker container: %s", line.raw)
		}
	}
	if v1 := i.imds.Counts().V1; v1 != 0 {
		t.Errorf("%d v1 calls reached IMDS", v1)
	}
}
