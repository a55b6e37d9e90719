package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
)

func probe(t *testing.T, b *bridge, patience time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return b.proxy.Probe(ctx, netip.MustParseAddrPort(b.addr))
}

func TestProbeOfAProxyThatServesIsNotReported(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required, unknown: true}.start(t)
	for range 3 {
		if err := probe(t, b, 5*time.Second); err != nil {
			t.Error(err)
		}
	}
	b.stop(t)
	if n := b.imds.Counts().Connections; n != 0 {
		t.Errorf("%d connections reached IMDS", n)
	}
	if lines := b.logs.calls(t); len(lines) != 0 {
		t.Errorf("reported: %v", lines)
	}
}

// TestProbeFindsADeadlock holds a lock that is on the way of every call, each in turn.
func TestProbeFindsADeadlock(t *testing.T) {
	t.Parallel()
	var lookups sync.Mutex
	b := setup{metadata: required}.startWithLookup(t, func(net.Conn) (caller.Peer, error) {
		lookups.Lock()
		defer lookups.Unlock()
		return caller.Peer{}, errors.New("no record")
	})
	for name, lock := range map[string]sync.Locker{
		"lookup": &lookups, "slots": &b.proxy.slots.mu, "tokens": &b.proxy.tokens.mu,
	} {
		lock.Lock()
		if err := probe(t, b, 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
			t.Errorf("%s is locked, and a probe says %v", name, err)
		}
		lock.Unlock()
		waitFor(t, "the proxy to come back", func() bool { return probe(t, b, time.Second) == nil })
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestProbeOfAPausedProxyFails(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required, unknown: true}.start(t)
	b.proxy.Pause()
	if err := probe(t, b, 100*time.Millisecond); err == nil {
		t.Error("a paused proxy answers")
	}
	b.proxy.Resume()
	if err := probe(t, b, 5*time.Second); err != nil {
		t.Error(err)
	}
}

// TestPauseLosesNoCall pauses in the midst of calls, and they wait.
func TestPauseLosesNoCall(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for range 20 {
			b.proxy.Pause()
			time.Sleep(5 * time.Millisecond)
			b.proxy.Resume()
			time.Sleep(time.Millisecond)
		}
	}()
	for n := 0; ; n++ {
		if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "200" {
			t.Fatalf("call %d: %q", n, answer)
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}

func TestShutdownOfAPausedProxy(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	b.proxy.Pause()
	b.stop(t)
}
