//go:build root

package iptables

import (
	"strings"
	"testing"
)

// A pod whose containers share a network namespace: an init container puts the rules in place, and the
// bridge is an ordinary user without any capability.
func TestSidecarIsServedByRulesOfItsInitContainer(t *testing.T) {
	t.Parallel()
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			user := uint32(8254)
			o := options(t, backend)
			o.Listen, o.Listen6 = loopback4, loopback6
			o.Mark, o.User, o.Preset = 0, &user, true
			for range 2 { // as an init container that is run again
				if err := l.Host().Do(func() error {
					r, err := Install(o.Rules)
					if r.Backend != backend || r.NoIPv6 != "" {
						t.Errorf("report %+v", r)
					}
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			if n := strings.Count(strings.Join(tables(t, l.Host()), "\n"), "imds-bridge-jump"); n != 2 {
				t.Errorf("%d jumps:\n%s", n, strings.Join(tables(t, l.Host()), "\n"))
			}
			b := newBridge(t, l, o)
			for _, c := range []call{{To: imds4}, {To: imds6}, {To: imds4, V6: true}} {
				s, r := b.call(t, l.Host(), c, as(12345, 12345))
				if r.PID != uint32(s.PID) || r.UID != 12345 || !r.OwnNetNS {
					t.Errorf("record %+v of %+v", r, s)
				}
			}
			expectIMDS(t, l.Host(), call{To: imds4}, as(user, 0))
			if err := b.rules.Close(); err != nil {
				t.Error(err)
			}
			b.call(t, l.Host(), call{To: imds4}) // they are not the bridge's to remove
			if err := l.Host().Do(func() error {
				left, err := Sweep(Tools{})
				if len(left.Removed) != 2 {
					t.Errorf("swept %+v", left)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			expectNoRules(t, l.Host())
			expectIMDS(t, l.Host(), call{To: imds4})
		})
	}
}

func TestBridgeThatStartsLeavesRulesOfAnInitContainer(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	o := options(t, NFT)
	if err := l.Host().Do(func() error { _, err := Install(o.Rules); return err }); err != nil {
		t.Fatal(err)
	}
	before := len(tables(t, l.Host()))
	b := newBridge(t, l, o)
	if left, err := b.rules.Settle(); err != nil || left.Removed != nil {
		t.Errorf("swept %+v, %v", left, err)
	}
	if err := b.rules.Close(); err != nil {
		t.Error(err)
	}
	if after := len(tables(t, l.Host())); after != before {
		t.Errorf("%d rules are left of %d", after, before)
	}
}
