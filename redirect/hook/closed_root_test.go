//go:build root

package hook

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/imds-bridge/imds-bridge/lab"
)

func closed(o *Options) { o.FailClosed = true }

// expectRefused makes calls that must all fail at once.
func expectRefused(t *testing.T, in *lab.Namespace, calls ...call) {
	t.Helper()
	client := start(t, in, calls)
	for _, c := range calls {
		if s := client.next(t); s.Error != "EPERM" {
			t.Errorf("%+v: error %q, answer %q", c, s.Error, s.Answer)
		}
	}
}

func (b *bridge) expectRefused(t *testing.T, in *lab.Namespace, calls ...call) {
	t.Helper()
	defer b.turnAway(t)()
	expectRefused(t, in, calls...)
}

func callsTo(addrs ...string) (calls []call) {
	for _, to := range addrs {
		calls = append(calls, call{To: to})
	}
	return calls
}

func TestClosedBridgeThatIsSilentRefusesItsCalls(t *testing.T) {
	t.Parallel()
	b := newBridge(t, pinnedAt(newPins(t)), checking(mark|1<<16))
	standIn(t, b.Lab, imds4, imds6)
	container := addContainer(t, b, "one")
	b.silence(t)
	b.expectRefused(t, b.Host(), callsTo(everyAddress...)...)
	b.expectRefused(t, container, call{To: imds4}, call{To: imds6, Mark: mark})
	b.expectCounters(t, map[Outcome]uint64{"refused": 5})

	// Its own sockets still get out, and its self-check in.
	b.expectIMDS(t, b.Host(), call{To: imds4, Mark: mark}, call{To: imds6, Mark: mark})
	expectCall(t, b, b.Host(), call{To: imds4, Mark: mark | 1<<16})

	if err := b.hook.Beat(); err != nil {
		t.Fatal(err)
	}
	for _, to := range everyAddress {
		expectCall(t, b, b.Host(), call{To: to})
	}
}

func TestClosedBridgeRefusesWhatItCannotHave(t *testing.T) {
	t.Parallel()
	pins := newPins(t)
	t.Run("no listener for the family", func(t *testing.T) {
		t.Parallel()
		b := newBridge(t, pinnedAt(pins), func(o *Options) { o.Listen6 = netip.AddrPort{} })
		standIn(t, b.Lab, imds6)
		b.expectRefused(t, b.Host(), call{To: imds6})
		expectCall(t, b, b.Host(), call{To: imds4})
	})
	t.Run("bound to a device", func(t *testing.T) {
		t.Parallel()
		b := newBridge(t, pinnedAt(pins))
		standIn(t, b.Lab, imds4, imds6)
		b.expectRefused(t, b.Host(), call{To: imds4, Device: "eth0"}, call{To: imds6, Device: "eth0"})
	})
	t.Run("a caller that cannot be recorded", func(t *testing.T) {
		t.Parallel()
		b := newBridgeBy(t, attachWith(full(hookMapSockets)), newLab(t), closed)
		standIn(t, b.Lab, imds4)
		start(t, b.Host(), []call{{To: imds4, Keep: true}}).next(t)
		b.next(t)
		b.expectRefused(t, b.Host(), call{To: imds4})
		b.expectCounters(t, map[Outcome]uint64{"redirected": 1, "joined": 1, "refused": 1})
	})
}

func TestClosedBridgeLeavesAloneWhatItDoesNotServe(t *testing.T) {
	t.Parallel()
	b := newBridge(t, pinnedAt(newPins(t)), func(o *Options) { o.OwnNetNSOnly, o.Listen6 = true, netip.AddrPort{} })
	standIn(t, b.Lab, imds4, imds6)
	b.silence(t)
	b.expectIMDS(t, addContainer(t, b, "one"), call{To: imds4}, call{To: imds6})
	b.expectCounters(t, map[Outcome]uint64{"other_netns": 2})
	b.expectRefused(t, b.Host(), call{To: imds4})
}

// expectConnectHooks waits until there are as many of the hooks that redirect, and none other.
func expectConnectHooks(t *testing.T, l *lab.Lab, want int) {
	t.Helper()
	eventually(t, func() error {
		n, err := attached(l)
		if err != nil {
			return err
		}
		for _, where := range attachTypes {
			if isConnect(where) && n[where] != want || !isConnect(where) && n[where] != 0 {
				return fmt.Errorf("attached are %v", n)
			}
		}
		return nil
	})
}

func TestCallsAreRefusedFromAClosedBridgesDeathToTheNextStart(t *testing.T) {
	t.Parallel()
	l, pins := newLab(t), newPins(t)
	standIn(t, l, imds4, imds6)
	dead := startRole(t, l.Host().StartOutside, "bridge", bridgeTask{Cgroup: l.Cgroup(), Listen: listen4, Pins: pins, Silent: true})
	var s started
	dead.read(t, &s)
	if s.Listen != "" || s.Attach != "" {
		t.Fatal(s.Listen, s.Attach)
	}
	if err := dead.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dead.end()
	expectConnectHooks(t, l, 1)
	expectRefused(t, l.Host(), callsTo(everyAddress...)...)

	// The next one proves itself, and gets to IMDS, before it takes the pins over.
	next := newBridgeIn(t, l, pinnedAt(pins), checking(mark|1<<16))
	expectCall(t, next, l.Host(), call{To: imds4, Mark: mark | 1<<16})
	expectIMDS(t, l.Host(), call{To: imds4, Mark: mark})
	expectRefused(t, l.Host(), call{To: imds4})
	for range 2 {
		next.pin(t)
	}
	expectAttached(t, l, 1)
	for _, to := range everyAddress {
		expectCall(t, next, l.Host(), call{To: to})
	}
}

func TestClosedBridgeThatStopsRefusesAtOnce(t *testing.T) {
	t.Parallel()
	pins := newPins(t)
	b := newBridge(t, pinnedAt(pins))
	standIn(t, b.Lab, imds4, imds6)
	b.pin(t)
	open := openAll(t, b, b.hook)
	for range 2 {
		if err := b.hook.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	b.expectRefused(t, b.Host(), callsTo(everyAddress...)...)
	if err := b.hook.Beat(); err != nil { // as one does that did not hear of it yet
		t.Fatal(err)
	}
	b.expectRefused(t, b.Host(), call{To: imds4})
	for _, a := range open.arrivals {
		if got, err := b.lookup(a.Conn); err != nil || got != a.record {
			t.Errorf("after Detach the caller is %+v, %v; was %+v", got, err, a.record)
		}
	}
	b.lookups.Store(nil)
	if err := b.hook.Close(); err != nil {
		t.Fatal(err)
	}
	expectConnectHooks(t, b.Lab, 1)
	b.expectRefused(t, b.Host(), callsTo(everyAddress...)...)
}

// Each call of a stream gets an answer of one bridge or the other, and none an answer of IMDS.
func TestClosedBridgesTakeOverWithoutAGap(t *testing.T) {
	t.Parallel()
	pins := newPins(t)
	old := newBridge(t, pinnedAt(pins))
	standIn(t, old.Lab, imds4)
	old.pin(t)
	young := beside(t, old, pinnedAt(pins), sharing(old.hook.Records()), func(o *Options) { o.Succeeds = true })

	var serving sync.WaitGroup
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop); serving.Wait() })
	for _, b := range []*bridge{old, young} {
		serving.Go(func() {
			for {
				select {
				case a := <-b.arrivals:
					_, _ = io.WriteString(a, "bridge")
					a.Close()
				case <-stop:
					return
				}
			}
		})
	}
	const times = 400
	client := start(t, old.Host(), []call{{To: imds4, Times: times}})
	for i := range times {
		switch i {
		case times / 4:
			young.pin(t)
		case times / 2:
			if err := old.hook.Detach(); err != nil {
				t.Error(err)
			}
		}
		if s := client.next(t); s.Error != "" || s.Answer != "bridge" {
			t.Fatalf("call %d: answer %q, error %q", i, s.Answer, s.Error)
		}
	}
	counters, err := young.hook.Counters()
	if err != nil || counters["redirected"] < times/4 {
		t.Errorf("the young bridge's counters are %v, %v", counters, err)
	}
}

func TestOpenBridgeTakesOverFromAClosedOneThatIsDead(t *testing.T) {
	t.Parallel()
	pins := newPins(t)
	old := newBridge(t, pinnedAt(pins))
	standIn(t, old.Lab, imds4)
	old.pin(t)
	if err := old.hook.Close(); err != nil {
		t.Fatal(err)
	}
	young := beside(t, old)
	if removed, err := RemovePins(pins); !removed || err != nil {
		t.Fatalf("removed %t, %v", removed, err)
	}
	expectCall(t, young, young.Host(), call{To: imds4})
	if err := young.hook.Detach(); err != nil {
		t.Fatal(err)
	}
	old.expectIMDS(t, old.Host(), call{To: imds4})
	if _, err := os.Stat(pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of pins: %v", err)
	}
	if removed, err := RemovePins(pins); removed || err != nil {
		t.Errorf("the second time: removed %t, %v", removed, err)
	}
}

func TestLinksOfAClosedBridgeLeaveOutWhatIsPinned(t *testing.T) {
	t.Parallel()
	b := newBridge(t, pinnedAt(newPins(t)))
	b.pin(t)
	links, err := b.hook.Links()
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(links)
	if err := DetachLinks(links); err != nil || len(links) != 3 {
		t.Errorf("%d links, %v", len(links), err)
	}
	expectConnectHooks(t, b.Lab, 1)
}
