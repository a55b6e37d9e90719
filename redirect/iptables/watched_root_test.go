//go:build root

package iptables

import (
	"net/netip"
	"testing"

	redirectwatch "github.com/imds-bridge/imds-bridge/redirect/watch"
)

// The answers of a bridge come with the address of IMDS once they are translated. Who watches for calls that went past it is
// not to be woken by them.
func TestAnswersOfABridgeAreNotSeenAsThoseOfIMDS(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBridge(t, l, options(t, NFT))
	var w *redirectwatch.Watch
	if err := l.Host().Do(func() (err error) {
		w, err = redirectwatch.Attach(redirectwatch.Options{Cgroup: l.Cgroup(), Mark: mark, Seen: func(redirectwatch.Exchange) {}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	expect := func(when string, seen bool) {
		t.Helper()
		counts, err := w.Counters()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []redirectwatch.Count{"sent", "received"} {
			if (counts[name] > 0) != seen {
				t.Errorf("%s: %d packets %s", when, counts[name], name)
			}
		}
	}
	for _, to := range []netip.AddrPort{imds4, imds6} {
		b.call(t, l.Host(), call{To: to})
	}
	expect("by the bridge", false)
	if err := b.rules.Detach(); err != nil {
		t.Fatal(err)
	}
	expectIMDS(t, l.Host(), call{To: imds4})
	expect("straight", true)
}
