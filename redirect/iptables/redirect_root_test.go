//go:build root

package iptables

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
)

func TestCallsAreRedirectedAndTheirCallersKnown(t *testing.T) {
	t.Parallel()
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			container := addContainer(t, l, "docker-1.scope")
			b := newBridge(t, l, options(t, backend))
			if r := b.rules.Report(); r.Backend != backend || r.NoIPv6 != "" || !strings.Contains(r.Program, "iptables") {
				t.Errorf("report %+v", r)
			}
			for name, c := range map[string]call{"IPv4": {To: imds4}, "IPv6": {To: imds6}, "IPv4 by an IPv6 socket": {To: imds4, V6: true}} {
				t.Run(name+" from the host", func(t *testing.T) {
					s, r := b.call(t, l.Host(), c, as(12345, 23456))
					if r.PID != uint32(s.PID) || r.UID != 12345 || r.GID != 23456 || !r.OwnNetNS || r.Ambiguous || r.Socket != s.Socket {
						t.Errorf("record %+v of %+v", r, s)
					}
				})
				t.Run(name+" from a container", func(t *testing.T) {
					s, r := b.call(t, container, c, as(34567, 45678))
					if r.PID != uint32(s.PID) || r.UID != 34567 || r.GID != 45678 || r.OwnNetNS || r.Ambiguous || r.Original.Port() != 80 {
						t.Errorf("record %+v of %+v", r, s)
					}
				})
			}
			for _, to := range []netip.AddrPort{imds4, imds6} {
				expectIMDS(t, l.Host(), call{To: to, Mark: mark})
				expectIMDS(t, l.Host(), call{To: to, Mark: 0x12340000 | mark})
			}
			if err := b.rules.Close(); err != nil {
				t.Error(err)
			}
			expectNoRules(t, l.Host())
			expectNoSets(t, l.Host())
			expectIMDS(t, l.Host(), call{To: imds4})
			expectIMDS(t, container, call{To: imds6})
		})
	}
}

// What the hook says of the same kind of caller, but for what is documented.
func TestCallerIsTheOneThatTheHookWouldName(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	container := addContainer(t, l, "one")
	b := newBridge(t, l, options(t, NFT))
	_, host := b.call(t, l.Host(), call{To: imds4, V6: true}, as(12345, 12345))
	_, boxed := b.call(t, container, call{To: imds6}, as(12345, 12345))
	if err := b.rules.Detach(); err != nil {
		t.Fatal(err)
	}
	var h *hook.Hook
	if err := l.Host().Do(func() (err error) {
		h, err = hook.Attach(hook.Options{Cgroup: l.Cgroup(), Listen: listen4, Listen6: listen6, Mark: mark, Heartbeat: time.Hour, Connections: 16})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, tt := range []struct {
		rules redirect.Connection
		in    string
	}{{host, "host"}, {boxed, "container"}} {
		in, c := l.Host(), call{To: imds4, V6: true}
		if tt.in == "container" {
			in, c = container, call{To: imds6}
		}
		client := startCalls(t, in, c, as(12345, 12345))
		a := b.next(t)
		want, err := h.Lookup(a.Conn)
		if err != nil {
			t.Fatal(err)
		}
		a.answer(t)
		client.next(t)
		got := tt.rules
		if off := want.Started - got.Started; off < 0 || off > time.Minute {
			t.Errorf("%s: started %s, by the hook %s", tt.in, got.Started, want.Started)
		}
		// Another process, and so other numbers.
		got.PID, got.ExecID, got.Started = want.PID, want.ExecID, want.Started
		// What is not to be had.
		want.TID, want.Connected = 0, 0
		if tt.in == "host" {
			got.Socket = want.Socket
			if got.NetNSCookie == 0 { // before Linux 5.14
				want.NetNSCookie = 0
			}
		} else {
			want.Socket, want.NetNSCookie = 0, 0
		}
		if got != want {
			t.Errorf("%s: the rules say\n%+v, the hook\n%+v", tt.in, got, want)
		}
	}
}

func TestDirectDialIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBridge(t, l, options(t, NFT))
	for _, to := range []netip.AddrPort{listen4, listen6} {
		client := startCalls(t, l.Host(), call{To: to})
		a := b.next(t)
		if !errors.Is(a.err, redirect.ErrNoRecord) {
			t.Errorf("dialling %s: %v", to, a.err)
		}
		a.Close()
		client.next(t)
	}
	if n := b.rules.counts[outcomeDirect].Load(); n != 2 {
		t.Errorf("%d direct dials are counted", n)
	}
}

// Rules that send something else to the listener make it no proxy for that.
func TestWhatWasNotForIMDSIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBridge(t, l, options(t, NFT))
	if err := l.Host().Do(func() error {
		_, err := run("iptables-nft", 5, strings.Fields("-t nat -I OUTPUT -d 172.31.0.1 -p tcp --dport 80 -j DNAT --to-destination "+listen4.String())...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	startCalls(t, l.Host(), call{To: netip.MustParseAddrPort("172.31.0.1:80")})
	if a := b.next(t); !errors.Is(a.err, redirect.ErrNoRecord) {
		t.Errorf("record %+v, %v", a.record, a.err)
	}
}

// A caller that cannot be found is served as one that may be anybody.
func TestUnknownCallerIsAmbiguous(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBridge(t, l, options(t, NFT))
	// Its process is in no namespace that /proc knows: the socket is a thread's, in a namespace of its own.
	n := addContainer(t, l, "one")
	conn, err := n.DialContext(context.Background(), "tcp", imds4.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	a := b.next(t)
	if a.err != nil || a.record.PID != 0 || !a.record.Ambiguous || a.record.OwnNetNS || a.record.Original != imds4 {
		t.Errorf("record %+v, %v", a.record, a.err)
	}
	if n := b.rules.counts[outcomeNotJoined].Load(); n != 1 {
		t.Errorf("%d are counted as not joined", n)
	}
}

func TestContainersAreLeftAloneWhenAskedFor(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Options){
		"by the setting":         func(o *Options) { o.Containers = false },
		"with loopback listener": func(o *Options) { o.Listen, o.Listen6 = loopback4, loopback6 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			container := addContainer(t, l, "one")
			o := options(t, NFT)
			change(&o)
			b := newBridge(t, l, o)
			for _, to := range []netip.AddrPort{imds4, imds6} {
				b.call(t, l.Host(), call{To: to})
				expectIMDS(t, container, call{To: to})
			}
		})
	}
}

var (
	loopback4 = netip.MustParseAddrPort("127.0.0.1:8254")
	loopback6 = netip.MustParseAddrPort("[::1]:8254")
)

// Other hosts reach IMDS through this one where it forwards, and are not served by the bridge.
func TestCallsFromOutsideAreLeftAlone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	outside, container := addContainer(t, l, "outside"), addContainer(t, l, "one")
	if err := l.Host().Do(func() error { return addDefaultRoute("c1", outside.Addr()) }); err != nil {
		t.Fatal(err)
	}
	b := newBridge(t, l, options(t, NFT))
	expectIMDS(t, outside, call{To: imds4})
	b.call(t, container, call{To: imds4})
}

func TestSelfCheckIsRedirectedByItsOwnRulesAlone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const check = 0x12340000 | mark
	old := newBridge(t, l, options(t, NFT))
	o := options(t, NFT)
	o.CheckMark = check
	o.Listen, o.Listen6 = netip.AddrPortFrom(listen4.Addr(), 8255), netip.AddrPort{}
	b := newBridge(t, l, o)
	b.call(t, l.Host(), call{To: imds4, Mark: check})
	expectIMDS(t, l.Host(), call{To: imds4, Mark: 0x43210000 | mark})
	// The one that came last gets the calls, and the other one when that is gone.
	b.call(t, l.Host(), call{To: imds4})
	if err := b.rules.Close(); err != nil {
		t.Error(err)
	}
	old.call(t, l.Host(), call{To: imds4})
	expectIMDS(t, l.Host(), call{To: imds4, Mark: check})
}

func TestOneThatIsRetiredLeavesTheRulesOfTheNext(t *testing.T) {
	t.Parallel()
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			old := newBridge(t, l, options(t, backend))
			o := options(t, backend)
			o.Listen, o.Listen6 = netip.AddrPortFrom(listen4.Addr(), 8255), netip.AddrPortFrom(listen6.Addr(), 8255)
			b := newBridge(t, l, o)
			if l, err := b.rules.Settle(); err != nil || l.Removed != nil || l.Kept != nil {
				t.Errorf("swept %+v, %v", l, err)
			}
			if err := old.rules.Close(); err != nil {
				t.Error(err)
			}
			b.call(t, l.Host(), call{To: imds4})
			b.call(t, l.Host(), call{To: imds6})
		})
	}
}
