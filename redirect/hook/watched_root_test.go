//go:build root

package hook

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

// expectSocket compares what the kernel knows of a socket that was left alone.
func expectSocket(t *testing.T, h *Hook, c *process, s sighting, to string, outcome hookOutcome) {
	t.Helper()
	var got hookConnection
	if err := h.Records().Sockets.Lookup(s.Socket, &got); err != nil {
		t.Fatalf("call to %s: %v", to, err)
	}
	if r := newConnection(&got, true); r.PID != uint32(c.cmd.Process.Pid) || r.Original != mustAddrPort(to) || r.Socket != s.Socket {
		t.Errorf("call to %s: recorded %+v", to, r)
	}
	if got.Outcome != uint32(outcome) {
		t.Errorf("call to %s: recorded as %s, want %s", to, outcomes[got.Outcome], outcomes[outcome])
	}
}

func TestWhoeverGoesPastTheBridgeIsRecorded(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change  func(*Options)
		silent  bool
		call    call
		outcome hookOutcome
	}{
		"stale, IPv4":          {silent: true, call: call{To: imds4}, outcome: hookOutcomeOUTCOME_STALE},
		"stale, IPv6":          {silent: true, call: call{To: imds6}, outcome: hookOutcomeOUTCOME_STALE},
		"bound to a device":    {call: call{To: imds4, Device: "eth0"}, outcome: hookOutcomeOUTCOME_BOUND_DEVICE},
		"no listener":          {change: func(o *Options) { o.Listen6 = netip.AddrPort{} }, call: call{To: imds6}, outcome: hookOutcomeOUTCOME_NO_LISTENER},
		"not TCP":              {call: call{To: imds4, How: "udp"}, outcome: hookOutcomeOUTCOME_NOT_TCP},
		"in another namespace": {change: func(o *Options) { o.OwnNetNSOnly = true }, call: call{To: imds4}, outcome: hookOutcomeOUTCOME_OTHER_NETNS},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBridge(t, func(o *Options) {
				if tt.change != nil {
					tt.change(o)
				}
			})
			in := b.Host()
			if tt.outcome == hookOutcomeOUTCOME_OTHER_NETNS {
				in = addContainer(t, b, "one")
			}
			if tt.silent {
				b.silence(t)
			}
			standIn(t, b.Lab, imds4, imds6)
			tt.call.Keep = true
			if tt.call.How == "udp" {
				answerDatagrams(t, b.Lab, imds4)
			}
			client := start(t, in, []call{tt.call})
			expectSocket(t, b.hook, client, client.next(t), tt.call.To, tt.outcome)
			b.expectCounters(t, map[Outcome]uint64{outcomes[tt.outcome]: 1})
		})
	}
}

func TestBridgesOwnSocketsAreNotRecorded(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	standIn(t, b.Lab, imds4)
	start(t, b.Host(), []call{{To: imds4, Mark: mark, Keep: true}}).next(t)
	b.expectNoRecords(t)
}

// The record of a call that went past is no ticket to the bridge.
func TestSocketThatWentPastAndDialsTheListenerHasNoRecord(t *testing.T) {
	t.Parallel()
	for first, to := range map[string]string{imds4: listen4.String(), imds6: listen6.String()} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			b := newBridge(t)
			b.silence(t)
			unplug(t, b.Lab) // so that the first attempt fails at once
			client := start(t, b.Host(), []call{{First: first, To: to, Keep: true}})
			s := client.next(t)
			a := b.next(t)
			if !errors.Is(a.err, redirect.ErrNoRecord) {
				t.Errorf("recorded as %+v, %v", a.record, a.err)
			}
			if s.Peer != to {
				t.Errorf("the client's peer is %s, error %q", s.Peer, s.Error)
			}
			b.expectCounters(t, map[Outcome]uint64{"stale": 1})
		})
	}
}

func TestWithoutListenersCallersAreRecordedAndNothingElseIsAttached(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	h := attachTo(t, l, func(o *Options) { o.Listen, o.Listen6 = netip.AddrPort{}, netip.AddrPort{} })
	expectConnectHooks(t, l, 1)
	if err := h.objects.Heartbeat.Set(uint64(0)); err != nil {
		t.Fatal(err)
	}
	standIn(t, l, imds4, imds6)
	container, err := l.AddContainer("one")
	if err != nil {
		t.Fatal(err)
	}
	expectIMDS(t, l.Host(), call{To: imds4}, call{To: imds6})
	for i, to := range everyAddress {
		client := start(t, l.Host(), []call{{To: to, Keep: true}})
		s := client.next(t)
		if s.Peer != to || s.Error != "" {
			t.Errorf("call to %s: peer %s, error %q", to, s.Peer, s.Error)
		}
		expectSocket(t, h, client, s, to, hookOutcomeOUTCOME_WATCHED)
		expectCounters(t, h, map[Outcome]uint64{"watched": uint64(i) + 3})
	}
	client := start(t, container, []call{{To: imds4, Keep: true}})
	expectSocket(t, h, client, client.next(t), imds4, hookOutcomeOUTCOME_WATCHED)
	if Outcome("watched").Bypass() {
		t.Error("to be watched is to go past the bridge")
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	expectAttached(t, l, 0)
}

// Nobody takes away the record of a call that went past: it makes room for younger ones.
func TestRecordsOfWhatWentPastAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	h := attachTo(t, l, func(o *Options) {
		o.Listen, o.Listen6, o.Connections = netip.AddrPort{}, netip.AddrPort{}, 1
	})
	bound, err := lruEntries(1)
	if err != nil {
		t.Fatal(err)
	}
	standIn(t, l, imds4)
	times := int(bound) + 100
	client := start(t, l.Host(), []call{{To: imds4, Times: times}})
	for i := range times {
		s := client.next(t)
		var got hookConnection
		if err := h.Records().Sockets.Lookup(s.Socket, &got); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if n := entries(t, h.Records().Sockets); n > int(bound) {
		t.Errorf("%d sockets are recorded, want at most %d", n, bound)
	}
	expectCounters(t, h, map[Outcome]uint64{"watched": uint64(times)})
}

// unplug takes the host's way to IMDS away.
func unplug(t *testing.T, l *lab.Lab) {
	t.Helper()
	if err := l.Host().Do(func() error {
		uplink, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(uplink)
	}); err != nil {
		t.Fatal(err)
	}
}
