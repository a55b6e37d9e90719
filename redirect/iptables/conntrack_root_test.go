//go:build root

package iptables

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
)

// held is a connection on a port of its own, on which nothing is asked before it is told to.
type held struct {
	net.Conn
	name string
}

// hold connects to IMDS from everywhere, over both families.
func hold(t *testing.T, from map[string]*lab.Namespace) (all []held) {
	t.Helper()
	for name, n := range from {
		for port, to := range map[int]netip.AddrPort{20_004: imds4, 20_006: imds6} {
			d := net.Dialer{LocalAddr: &net.TCPAddr{Port: port}, Timeout: patience}
			h := held{name: fmt.Sprintf("from %s to %s", name, to)}
			if err := n.Do(func() (err error) { h.Conn, err = d.Dial("tcp", to.String()); return err }); err != nil {
				t.Fatalf("%s: %v", h.name, err)
			}
			t.Cleanup(func() { h.Close() })
			all = append(all, h)
		}
	}
	return all
}

func (h held) expect(t *testing.T, question, answer string) {
	t.Helper()
	if err := h.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(h, question); err != nil {
		t.Errorf("%s: %v", h.name, err)
	}
	if got, err := io.ReadAll(h); err != nil || string(got) != answer {
		t.Errorf("%s: answer %q, %v; want %q", h.name, got, err, answer)
	}
	h.Close()
}

// A call that is under way when rules come has its answer, also from the port of an earlier one that rules
// redirected.
func TestCallUnderWayGoesOnWhenRulesCome(t *testing.T) {
	t.Parallel()
	for _, backend := range backends() {
		for _, again := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, again %t", backend, again), func(t *testing.T) {
				t.Parallel()
				l := emptyLab(t)
				serveIMDS(t, l, func(c net.Conn) {
					if _, err := c.Read(make([]byte, 1)); err == nil {
						_, _ = io.WriteString(c, "imds")
					}
				})
				from := map[string]*lab.Namespace{"the host": l.Host(), "a container": addContainer(t, l, "one")}
				if again {
					b := newBridge(t, l, options(t, backend))
					earlier := hold(t, from)
					for range earlier {
						b.next(t).answer(t)
					}
					for _, h := range earlier {
						h.expect(t, "", "bridge")
					}
					if err := b.rules.Close(); err != nil {
						t.Fatal(err)
					}
					b.stopped()
				}
				straight := hold(t, from)
				newBridge(t, l, options(t, backend))
				for _, h := range straight {
					h.expect(t, "?", "imds")
				}
			})
		}
	}
}
