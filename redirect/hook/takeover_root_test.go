//go:build root

package hook

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

// beside is a second bridge in the lab of the first, as when a new version takes over.
func beside(t *testing.T, first *bridge, change ...func(*Options)) *bridge {
	t.Helper()
	return newBridgeIn(t, first.Lab, append([]func(*Options){func(o *Options) {
		o.Listen = netip.AddrPortFrom(listen4.Addr(), listen4.Port()+1)
		o.Listen6 = netip.AddrPortFrom(listen6.Addr(), listen6.Port()+1)
	}}, change...)...)
}

// attachTo attaches a hook that redirects to the listeners of another.
func attachTo(t *testing.T, l *lab.Lab, change ...func(*Options)) (h *Hook) {
	t.Helper()
	o := options(l)
	for _, f := range change {
		f(&o)
	}
	if err := l.Host().Do(func() (err error) {
		h, err = Attach(o)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func sharing(r Records) func(*Options) { return func(o *Options) { o.Records = &r } }

func checking(mark int) func(*Options) { return func(o *Options) { o.CheckMark = uint32(mark) } }

var everyAddress = []string{imds4, imds6, mapped4}

func TestFirstOfTwoBridgesGetsTheCallsUntilItIsGone(t *testing.T) {
	t.Parallel()
	old := newBridge(t)
	young := beside(t, old)
	expectAttached(t, old.Lab, 2)
	for _, to := range everyAddress {
		expectCall(t, old, old.Host(), call{To: to})
	}
	young.expectCounters(t, nil)

	open := start(t, old.Host(), []call{{To: imds4, Keep: true}})
	open.next(t)
	a := old.next(t)
	if err := old.hook.Detach(); err != nil {
		t.Fatal(err)
	}
	for _, to := range everyAddress {
		expectCall(t, young, young.Host(), call{To: to})
	}
	if got, err := old.lookup(a.Conn); err != nil || got != a.record {
		t.Errorf("the old bridge's connection is %+v, %v; was %+v", got, err, a.record)
	}
	if err := old.hook.Close(); err != nil {
		t.Fatal(err)
	}
	for _, to := range everyAddress {
		expectCall(t, young, young.Host(), call{To: to})
	}
	young.expectCounters(t, map[Outcome]uint64{"redirected": 6, "joined": 6, "closed": 6})
}

func TestSecondOfTwoBridgesGoesWithoutATrace(t *testing.T) {
	t.Parallel()
	old := newBridge(t)
	young := beside(t, old)
	if err := young.hook.Close(); err != nil {
		t.Fatal(err)
	}
	for _, to := range everyAddress {
		expectCall(t, old, old.Host(), call{To: to})
	}
	expectAttached(t, old.Lab, 1)
}

func TestSecondOfTwoBridgesGetsTheCallsOfASilentOne(t *testing.T) {
	t.Parallel()
	old := newBridge(t)
	young := beside(t, old)
	old.silence(t)
	expectCall(t, young, young.Host(), call{To: imds4})
	old.expectCounters(t, map[Outcome]uint64{"stale": 1})
}

// The bridges' own sockets are no calls for each other.
func TestMarkedSocketPassesBothBridges(t *testing.T) {
	t.Parallel()
	old := newBridge(t)
	young := beside(t, old)
	standIn(t, old.Lab, imds4)
	old.expectIMDS(t, old.Host(), call{To: imds4, Mark: mark})
	old.expectCounters(t, map[Outcome]uint64{"exempt": 1})
	young.expectCounters(t, map[Outcome]uint64{"exempt": 1})
}

func TestEachOfTwoBridgesProvesItselfBesideTheOther(t *testing.T) {
	t.Parallel()
	const firstMark, secondMark = mark | 1<<16, mark | 0xffff<<16
	first := newBridge(t, checking(firstMark))
	second := beside(t, first, checking(secondMark))
	for _, to := range everyAddress {
		expectCall(t, first, first.Host(), call{To: to, Mark: firstMark})
		expectCall(t, second, second.Host(), call{To: to, Mark: secondMark})
	}
	// The one that was attached later never sees the other's, which is redirected by then.
	first.expectCounters(t, map[Outcome]uint64{"redirected": 3, "joined": 3, "closed": 3, "exempt": 3})
	second.expectCounters(t, map[Outcome]uint64{"redirected": 3, "joined": 3, "closed": 3})
}

func TestSelfCheckReachesABridgeThatIsSilent(t *testing.T) {
	t.Parallel()
	b := newBridge(t, checking(mark|7<<16))
	standIn(t, b.Lab, imds4)
	b.silence(t)
	b.expectIMDS(t, b.Host(), call{To: imds4})
	expectCall(t, b, b.Host(), call{To: imds4, Mark: mark | 7<<16})
}

func TestRecordsAreFoundByEitherOfTwoBridges(t *testing.T) {
	t.Parallel()
	old := newBridge(t)
	young := attachTo(t, old.Lab, sharing(old.hook.Records()), func(o *Options) { o.Connections = 7 })
	expectAttached(t, old.Lab, 2)

	open := openAll(t, old, young)
	expectSum(t, old.hook, young, map[Outcome]uint64{"redirected": 3, "joined": 3})
	if err := old.hook.Detach(); err != nil {
		t.Fatal(err)
	}
	later := openAll(t, old, young)
	expectSum(t, old.hook, young, map[Outcome]uint64{"redirected": 6, "joined": 6})

	// What the old one redirected is found, and forgotten, without it too.
	if err := old.hook.Close(); err != nil {
		t.Fatal(err)
	}
	for _, a := range append(open.arrivals, later.arrivals...) {
		if got, err := young.Lookup(a.Conn); err != nil || got != a.record {
			t.Errorf("without the old bridge the caller is %+v, %v; was %+v", got, err, a.record)
		}
	}
	if err := errors.Join(open.end(), later.end()); err != nil {
		t.Fatal(err)
	}
	expectSum(t, old.hook, young, map[Outcome]uint64{"redirected": 6, "joined": 6, "closed": 6})
	(&bridge{hook: young}).expectNoRecords(t)
}

// expectSum waits until two hooks that share their records have counted each event once.
func expectSum(t *testing.T, one, other *Hook, want map[Outcome]uint64) {
	t.Helper()
	eventually(t, func() error {
		a, err := one.Counters()
		b, err2 := other.Counters()
		for _, o := range outcomes {
			if a[o]+b[o] != want[o] {
				return fmt.Errorf("%s is %d and %d, want %d together", o, a[o], b[o], want[o])
			}
		}
		return errors.Join(err, err2)
	})
}

// opened is connections to every address, each of a client of its own.
type opened struct {
	clients  []*process
	arrivals []*arrival
}

func (o *opened) end() error {
	var errs []error
	for _, c := range o.clients {
		errs = append(errs, c.end())
	}
	return errors.Join(errs...)
}

// openAll opens connections that come to b, and that both hooks must find.
func openAll(t *testing.T, b *bridge, second *Hook) (o opened) {
	t.Helper()
	for _, to := range everyAddress {
		client := start(t, b.Host(), []call{{To: to, Keep: true}})
		s := client.next(t)
		a := b.next(t)
		if a.err != nil || a.record.Socket != s.Socket || a.record.Ambiguous || s.Peer != to {
			t.Errorf("call to %s from %s: caller %+v, %v; the client's socket is %d", to, s.Peer, a.record, a.err, s.Socket)
		}
		if got, err := second.Lookup(a.Conn); err != nil || got != a.record {
			t.Errorf("to the other bridge the caller is %+v, %v; to the first %+v", got, err, a.record)
		}
		o.clients, o.arrivals = append(o.clients, client), append(o.arrivals, a)
	}
	return o
}

func TestRecordsOfAnotherMakeAreRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	good := attachTo(t, l)
	other, err := ebpf.NewMap(&ebpf.MapSpec{Name: "sockets", Type: ebpf.LRUHash, KeySize: 8, ValueSize: 104, MaxEntries: 512})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for name, r := range map[string]Records{
		"sockets":     {Sockets: other, Connections: good.Records().Connections},
		"connections": {Sockets: good.Records().Sockets, Connections: good.Records().Sockets},
		"none":        {Sockets: good.Records().Sockets},
	} {
		o := options(l)
		o.Records = &r
		var h *Hook
		err := l.Host().Do(func() (err error) {
			h, err = Attach(o)
			return err
		})
		if !errors.Is(err, ErrIncompatible) {
			t.Errorf("%s: %v", name, err)
		}
		if h != nil {
			t.Errorf("%s: attached", name)
			h.Close()
		}
		if name == "sockets" && err != nil && !strings.Contains(err.Error(), "ValueSize: 104") {
			t.Errorf("it says nothing of the reason: %v", err)
		}
	}
	expectAttached(t, l, 1)
}

// As with a service manager that keeps files for the next start.
func TestHookStaysWithWhoHasItsLinksAndGoesWithThem(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	standIn(t, b.Lab, everyAddress[:2]...)
	links, err := b.hook.Links()
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(links)
	// Records are shared by the files of the maps: without them they end with the hook.
	records := Records{Sockets: clone(t, b.hook.Records().Sockets), Connections: clone(t, b.hook.Records().Connections)}
	b.lookups.Store(nil)
	if err := b.hook.Leave(time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, again := range []error{b.hook.Leave(time.Hour), b.hook.Beat()} {
		if !errors.Is(again, os.ErrClosed) {
			t.Errorf("after Leave: %v", again)
		}
	}
	expectAttached(t, b.Lab, 1)
	client := start(t, b.Host(), []call{{To: imds4, Keep: true}})
	client.next(t)
	waiting := b.next(t) // in the listener's queue, so to speak

	next := attachTo(t, b.Lab, sharing(records))
	expectAttached(t, b.Lab, 2)
	if got, err := next.Lookup(waiting.Conn); err != nil || got.PID != uint32(client.cmd.Process.Pid) {
		t.Errorf("to the next bridge the caller is %+v, %v", got, err)
	}
	for range 2 {
		if err := DetachLinks(links); err != nil {
			t.Fatal(err)
		}
	}
	expectAttached(t, b.Lab, 1)
	again := start(t, b.Host(), []call{{To: imds6, Keep: true}})
	again.next(t)
	if got, err := next.Lookup(b.next(t).Conn); err != nil || got.PID != uint32(again.cmd.Process.Pid) {
		t.Errorf("to the next bridge the caller is %+v, %v", got, err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	b.expectIMDS(t, b.Host(), call{To: imds4}, call{To: imds6})
}

func clone(t *testing.T, m *ebpf.Map) *ebpf.Map {
	t.Helper()
	c, err := m.Clone()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestHookThatWasLeftRedirectsNoLongerThanItsGrace(t *testing.T) {
	t.Parallel()
	b := newBridge(t, func(o *Options) { o.Heartbeat = time.Millisecond })
	standIn(t, b.Lab, imds4)
	links, err := b.hook.Links()
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(links)
	if err := b.hook.Leave(0); err != nil {
		t.Fatal(err)
	}
	expectAttached(t, b.Lab, 1)
	b.expectIMDS(t, b.Host(), call{To: imds4})
}

func TestOnlyLinksOfAHookAreDetached(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	links, err := b.hook.Links()
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(links)
	file, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := DetachLinks([]*os.File{file, links[4]}); err == nil || !strings.Contains(err.Error(), file.Name()) {
		t.Errorf("detaching a directory: %v", err)
	}
	for i, where := range []string{"sock_ops", "getpeername4", "getpeername6", "connect4", "connect6"} {
		if links[i].Name() != where {
			t.Errorf("the link of %s is named %s", where, links[i].Name())
		}
	}
	n, err := attached(b.Lab)
	if err != nil || n[attachments[3].where] != 1 || n[attachments[4].where] != 0 {
		t.Errorf("attached are %v, %v", n, err)
	}
}

func TestLookupOfEitherFailsForADirectDial(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	young := attachTo(t, b.Lab, sharing(b.hook.Records()))
	start(t, b.Host(), []call{{To: listen4.String(), Keep: true}}).next(t)
	a := b.next(t)
	if _, err := young.Lookup(a.Conn); !errors.Is(err, redirect.ErrNoRecord) || !errors.Is(a.err, redirect.ErrNoRecord) {
		t.Errorf("a direct dial has a record: %v, %v", err, a.err)
	}
}
