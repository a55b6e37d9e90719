package e2e

import (
	"net/http"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// TestBypassIsReported: a connection that is older than the bridge is told of by who made it.
func TestBypassIsReported(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	binary(t) // not while the client has a connection: IMDS does not wait for a request that long
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
	await(t, "the bypass is counted", 5*time.Second, func() bool { return b.bypasses(t) == 1 })
}

// TestBypassOfAHangingBridgeIsReported: calls that the hook let through because the bridge was silent are told of
// when it is back, by those who made them and are gone by then.
func TestBypassOfAHangingBridgeIsReported(t *testing.T) {
	t.Parallel()
	i := newFaultyInstance(t)
	key := i.credentials(t).AccessKeyID
	b := i.startBridge(t, bridgeOptions{})
	b.signal(t, syscall.SIGSTOP)
	t.Cleanup(func() { _ = b.cmd.Process.Signal(syscall.SIGCONT) }) // however this ends
	i.requireStraight(t)
	i.imds.Reset()
	process, straight := i.watch(t, i.Host().Start, client{args: []string{debianPython, "clients/boto3/credentials.py"}}, key)

	b.signal(t, syscall.SIGCONT)
	lines := b.calls(t, len(straight), pid(process.Process.Pid))
	checkLogged(t, lines, straight)
	for _, line := range lines {
		if line.Reason != "bypass" || line.Upgraded || line.Version == "v1" {
			t.Errorf("log line: %s", line.raw)
		}
	}
	await(t, "the bypasses are counted", 5*time.Second, func() bool { return b.bypasses(t) > len(straight) })
	i.bridgeToken(t) // calls are the bridge's again
}

var bypassPattern = regexp.MustCompile(`(?m)^imds_watch_requests_total(?:\{.*\})? (\d+)$`)

// bypasses are the requests that were counted as past the bridge.
func (b *bridge) bypasses(t *testing.T) int {
	t.Helper()
	_, metrics := b.get("/metrics")
	match := bypassPattern.FindStringSubmatch(metrics)
	if match == nil {
		t.Fatalf("requests past the bridge are not counted:\n%s", metrics)
	}
	n, err := strconv.Atoi(match[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
