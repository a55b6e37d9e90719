//go:build root

package watch

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// Four processes with 500 calls a second each, as far as the machine lets them.
func TestNoCallIsMissedUnderLoad(t *testing.T) {
	const processes, rate, lasting = 4, 500, 3 * time.Second
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p, recorded(t, p))
	task := []call{{To: imds4, Send: []string{getID}, Reads: 1, For: lasting, Every: time.Second / rate}}
	var clients []*process
	for range processes {
		clients = append(clients, start(t, p.Host(), task))
	}
	made, all := make(map[uint32]int), 0
	for _, client := range clients {
		n := client.next(t).Made
		made[client.pid()] = n
		all += n
	}
	for range all {
		x := w.next(t)
		if x.Status != 200 || x.Target != "/latest/meta-data/instance-id" {
			t.Fatalf("told %+v", x)
		}
		made[x.Connection.PID]--
	}
	for pid, n := range made {
		if n != 0 {
			t.Errorf("process %d made %d calls more than were told", pid, n)
		}
	}
	t.Logf("%.0f calls a second", float64(all)/lasting.Seconds())
	w.expectCounters(t, map[Count]uint64{
		"requests":  uint64(all),
		"ring_full": 0, "unreadable": 0, "unsynced": 0, "gaps": 0, "evicted": 0, "queue_full": 0, "unnamed": 0, "silent": 0,
	})
	w.expectNothing(t)
}

func TestFullRingIsCountedAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watchBy(t, p, func(o Options) (*Watch, error) { return attach(o, bounds{4096, 16}) })
	large := strings.Replace(getID, "Accept", "X-Filler: "+strings.Repeat("x", 3000)+"\r\nAccept", 1)
	start(t, p.Host(), []call{{To: imds4, Send: []string{large}, Reads: 1}}).next(t)
	w.expectCounters(t, map[Count]uint64{"ring_full": 1, "requests": 0})
	w.expectNothing(t)
}

func TestSlowListenerLosesExchangesAndTheyAreCounted(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{KeepAlive: true})
	seen, stop := 0, make(chan struct{})
	goOn := sync.OnceFunc(func() { close(stop) })
	const room, calls = 16, 100
	few := func(o Options) (*Watch, error) { return attach(o, bounds{usualBounds.ring, room}) }
	w := watchBy(t, p, few, func(o *Options) {
		o.Seen = func(Exchange) { <-stop; seen++ }
	})
	t.Cleanup(goOn)
	client := start(t, p.Host(), []call{{To: imds4, Send: []string{getID}, Repeat: calls, Reads: calls}})
	client.next(t)
	eventually(t, func() error {
		got, err := w.Counters()
		if err != nil || got["queue_full"] == 0 {
			return fmt.Errorf("none is dropped: %v, %v", got, err)
		}
		return nil
	})
	goOn()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := w.Counters()
	if err != nil || got["requests"] != calls || calls != got["queue_full"]+uint64(seen) || seen < room {
		t.Errorf("%v told %d, %v", got, seen, err)
	}
}
