//go:build root

package iptables

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/owner"
)

const mark = 0x2069

var (
	listen4 = netip.MustParseAddrPort("169.254.20.254:8254")
	listen6 = netip.MustParseAddrPort("[fd69:6d64:7362::254]:8254")
)

// backends are tried each: those that the kernel has. The youngest may be built without legacy tables.
var backends = sync.OnceValue(func() []string {
	found := make(chan []string)
	go func() {
		runtime.LockOSThread() // the thread ends in its new namespace
		if unix.Unshare(unix.CLONE_NEWNET) == nil {
			if _, err := run("iptables-legacy", 5, "-t", "nat", "-S"); err == nil {
				found <- []string{NFT, Legacy}
				return
			}
		}
		found <- []string{NFT}
	}()
	return <-found
})

// hasLegacy tells whether the kernel has legacy tables, and looks at what is said where it has none.
func hasLegacy(t *testing.T) bool {
	t.Helper()
	if slices.Contains(backends(), Legacy) {
		return true
	}
	l := newLab(t)
	b := startBridge(t, l, bridgeTask{Backend: Legacy})
	if !strings.Contains(b.Error, "legacy") {
		t.Errorf("error %q", b.Error)
	}
	expectNoRules(t, l.Host())
	expectNoSets(t, l.Host())
	return false
}

func newLab(t testing.TB) *lab.Lab {
	t.Helper()
	l := emptyLab(t)
	standIn(t, l)
	return l
}

// emptyLab is one without anybody in the place of IMDS.
func emptyLab(t testing.TB) *lab.Lab {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func addContainer(t testing.TB, l *lab.Lab, name string) *lab.Namespace {
	t.Helper()
	n, err := l.AddContainer(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// arrival is a connection that came to the bridge, looked up as soon as it was accepted.
type arrival struct {
	net.Conn
	record redirect.Connection
	err    error
}

// bridge is the rules, the listeners they lead to and who answers there, in the host of a lab.
type bridge struct {
	*lab.Lab
	rules     *Redirector
	listeners []*redirect.Listener
	arrivals  chan *arrival
	stop      chan struct{}
	stopped   func()
}

func init() {
	roles["guard"] = func() error {
		return RunGuard(os.NewFile(3, "bridge"), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
}

func options(t testing.TB, backend string) Options {
	return Options{
		Rules: Rules{
			Tools:  Tools{Backend: backend},
			Listen: listen4, Listen6: listen6,
			Containers: true,
			Mark:       mark,
		},
		Guard:     func() *exec.Cmd { return command(t, "guard") },
		Heartbeat: patience, // nobody is silent here, and a slow machine is not taken for it
	}
}

func newBridge(t testing.TB, l *lab.Lab, o Options) *bridge {
	t.Helper()
	b, err := tryBridge(t, l, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tryBridge(t testing.TB, l *lab.Lab, o Options) (_ *bridge, err error) {
	t.Helper()
	b := &bridge{Lab: l, arrivals: make(chan *arrival, 4096), stop: make(chan struct{})}
	var running sync.WaitGroup
	b.stopped = sync.OnceFunc(func() {
		close(b.stop)
		for _, listener := range b.listeners {
			_ = l.Host().Do(listener.Close)
		}
		running.Wait()
		close(b.arrivals)
		for a := range b.arrivals {
			a.Close()
		}
	})
	t.Cleanup(b.stopped)
	for _, at := range []netip.AddrPort{o.Listen, o.Listen6} {
		if !at.IsValid() {
			continue
		}
		if err := l.Host().Do(func() error {
			listener, err := redirect.Listen(context.Background(), at)
			if err == nil {
				b.listeners = append(b.listeners, listener)
			}
			return err
		}); err != nil {
			return nil, err
		}
	}
	if err := l.Host().Do(func() (err error) {
		owners, err := owner.New(owner.Options{Timeout: patience})
		if err != nil {
			return err
		}
		t.Cleanup(func() { owners.Close() })
		o.Owners = owners
		b.rules, err = Attach(o)
		return err
	}); err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = b.rules.Close() })
	for _, listener := range b.listeners {
		running.Go(func() { b.serve(listener) })
	}
	running.Go(func() { b.beat(t, o.Heartbeat/4) })
	return b, nil
}

func (b *bridge) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		a := &arrival{Conn: conn}
		a.record, a.err = b.rules.Lookup(conn)
		b.arrivals <- a
	}
}

func (b *bridge) beat(t testing.TB, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := b.rules.Beat(); err != nil && !errors.Is(err, os.ErrClosed) {
				t.Logf("beat: %v", err)
				return
			}
		case <-b.stop:
			return
		}
	}
}

// next waits for a connection to the bridge.
func (b *bridge) next(t testing.TB) *arrival {
	t.Helper()
	select {
	case a := <-b.arrivals:
		t.Cleanup(func() { a.Close() })
		return a
	case <-time.After(patience):
		t.Fatal("no connection came to the bridge")
		return nil
	}
}

func (a *arrival) answer(t testing.TB) {
	t.Helper()
	if _, err := io.WriteString(a, "bridge"); err != nil {
		t.Error(err)
	}
	a.Close()
}

// call makes one call and lets the bridge answer it. The rules must have brought it there.
func (b *bridge) call(t testing.TB, in *lab.Namespace, c call, change ...func(*exec.Cmd)) (sighting, redirect.Connection) {
	t.Helper()
	client := startCalls(t, in, c, change...)
	a := b.next(t)
	if a.err != nil {
		t.Fatalf("%+v: %v", c, a.err)
	}
	a.answer(t)
	s := client.next(t)
	if s.Error != "" || s.Answer != "bridge" {
		t.Fatalf("%+v: answer %q, error %q", c, s.Answer, s.Error)
	}
	return s, a.record
}

func expectIMDS(t testing.TB, in *lab.Namespace, c call, change ...func(*exec.Cmd)) {
	t.Helper()
	if s := callFrom(t, in, c, change...); s.Error != "" || s.Answer != "imds "+c.To.String() {
		t.Errorf("%+v: answer %q, error %q", c, s.Answer, s.Error)
	}
}

// tables are all rules of a namespace that are not a kernel's own, as iptables-save would have them.
func tables(t testing.TB, n *lab.Namespace) (lines []string) {
	t.Helper()
	if err := n.Do(func() error {
		for _, program := range []string{"iptables", "ip6tables"} {
			for _, backend := range backends() {
				for _, table := range []string{"nat", "filter"} {
					out, err := run(program+"-"+backend, 5, "-t", table, "-S")
					if err != nil {
						return err
					}
					for line := range strings.Lines(out) {
						if !strings.HasPrefix(line, "-P") {
							lines = append(lines, program+"-"+backend+" -t "+table+" "+strings.TrimSpace(line))
						}
					}
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "#") })
}

func expectNoRules(t testing.TB, n *lab.Namespace) {
	t.Helper()
	if lines := tables(t, n); len(lines) > 0 {
		t.Errorf("rules are left:\n%s", strings.Join(lines, "\n"))
	}
}

// eventually waits until f returns nil.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
