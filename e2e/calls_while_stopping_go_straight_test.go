package e2e

import (
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// The hook goes first: while the bridge waits for a slow call, new ones need it no more.
func TestCallsWhileStoppingGoStraight(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	b := i.startBridge(t, bridgeOptions{flags: []string{"--upstream.timeout=4s"}})
	i.bridgeToken(t)
	if err := i.imds.SetBehaviour(simulator.Behaviour{Delay: 2 * time.Second}); err != nil {
		t.Fatal(err)
	}
	slow := curl(role)
	if err := i.Host().Start(slow); err != nil {
		t.Fatal(err)
	}
	await(t, "the slow call under way", 5*time.Second, func() bool { return i.imds.Counts().Requests == 1 })
	if err := i.imds.SetBehaviour(simulator.Behaviour{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	b.terminate()
	go func() { ended <- slow.Wait() }()

	for straight := 0; ; {
		if got := finish(t, i.Host().Start, curl(role)); got.err != nil {
			t.Errorf("a call while the bridge stops: %v, %s", got.err, got.stderr)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the slow call: %v", err)
			}
			if straight == 0 {
				t.Errorf("no call went straight to IMDS while the slow one was under way: %v", heads(i.imds.Requests()))
			}
			return
		default:
			straight = i.imds.Counts().V1
		}
	}
}
