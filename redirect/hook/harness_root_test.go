//go:build root

package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

const (
	imds4 = "169.254.169.254:80"
	imds6 = "[fd00:ec2::254]:80"

	mark = 0x2069

	// patience is how long a test waits for what must happen. It is spent only by one that fails.
	patience = 30 * time.Second

	// forever is longer than any machine is up.
	forever = 1 << 62 * time.Nanosecond
)

var (
	listen4 = netip.MustParseAddrPort("169.254.20.254:8254")
	listen6 = netip.MustParseAddrPort("[fd69:6d64:7362::254]:8254")
)

// bridge is a hook and the listeners it redirects to, in a lab of its own.
type bridge struct {
	*lab.Lab
	hook      *Hook
	lookups   atomic.Pointer[Hook] // who is asked for the callers of arrivals; nil: nobody
	listeners []*redirect.Listener
	arrivals  chan *arrival
}

// arrival is a connection that came to the bridge, looked up as soon as it was accepted.
type arrival struct {
	net.Conn
	record redirect.Connection
	err    error
}

func newLab(t *testing.T) *lab.Lab {
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

func newBridge(t *testing.T, change ...func(*Options)) *bridge {
	t.Helper()
	return newBridgeIn(t, newLab(t), change...)
}

func newBridgeIn(t *testing.T, l *lab.Lab, change ...func(*Options)) *bridge {
	t.Helper()
	return newBridgeBy(t, Attach, l, change...)
}

func newBridgeBy(t *testing.T, attach func(Options) (*Hook, error), l *lab.Lab, change ...func(*Options)) *bridge {
	t.Helper()
	b := &bridge{Lab: l, arrivals: make(chan *arrival, 4096)}
	o := options(l)
	for _, f := range change {
		f(&o)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		for _, listener := range b.listeners {
			_ = l.Host().Do(listener.Close)
		}
		serving.Wait()
		if b.hook != nil {
			if err := b.hook.Close(); err != nil {
				t.Error(err)
			}
		}
		close(b.arrivals)
		for a := range b.arrivals {
			a.Close()
		}
	})
	for _, at := range []netip.AddrPort{o.Listen, o.Listen6} {
		if at.IsValid() {
			listener, err := listenIn(l.Host(), at)
			if err != nil {
				t.Fatal(err)
			}
			b.listeners = append(b.listeners, listener)
		}
	}
	if err := l.Host().Do(func() (err error) {
		b.hook, err = attach(o)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	b.lookups.Store(b.hook)
	for _, listener := range b.listeners {
		serving.Go(func() { b.serve(listener) })
	}
	return b
}

func options(l *lab.Lab) Options {
	return Options{
		Cgroup:      l.Cgroup(),
		Listen:      listen4,
		Listen6:     listen6,
		Mark:        mark,
		Heartbeat:   forever,
		Connections: 1024,
	}
}

// listenIn calls Listen in a namespace. The listener must be closed there too.
func listenIn(n *lab.Namespace, at netip.AddrPort) (listener *redirect.Listener, err error) {
	err = n.Do(func() (err error) {
		// Not at once: a process that another test forks has a copy of an earlier one until its exec.
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			listener, err = redirect.Listen(context.Background(), at)
			if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(deadline) {
				return err
			}
		}
	})
	return listener, err
}

func (b *bridge) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		a := &arrival{Conn: conn}
		a.record, a.err = b.lookup(conn)
		b.arrivals <- a
	}
}

func (b *bridge) lookup(c net.Conn) (redirect.Connection, error) {
	if h := b.lookups.Load(); h != nil {
		return h.Lookup(c)
	}
	return redirect.Connection{}, redirect.ErrNoRecord
}

// silence makes the bridge one that never gave a sign of life.
func (b *bridge) silence(t *testing.T) {
	t.Helper()
	if err := b.hook.objects.Heartbeat.Set(uint64(0)); err != nil {
		t.Fatal(err)
	}
}

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// next waits for a connection to the bridge. The test answers it, or closes it by its end.
func (b *bridge) next(t *testing.T) *arrival {
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

// answer ends the connection, so that the client goes on, and waits for the client's end of it:
// to close before all is read would reset the connection.
func (a *arrival) answer(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(a, "bridge"); err != nil {
		t.Error(err)
	}
	_ = a.Conn.(*net.TCPConn).CloseWrite()
	_ = a.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, a); err != nil {
		t.Error(err)
	}
	a.Close()
}

// call makes one call and lets the bridge answer it. The hook must have brought it there.
func (b *bridge) call(t *testing.T, in *lab.Namespace, c call, change ...func(*exec.Cmd)) (s sighting, record redirect.Connection) {
	t.Helper()
	client := start(t, in, []call{c}, change...)
	seen := make(chan sighting, 1)
	go func() {
		s, err := client.see()
		if err != nil {
			s.Error = err.Error()
		}
		seen <- s
	}()
	select {
	case a := <-b.arrivals:
		if a.err != nil {
			t.Errorf("%+v: %v", c, a.err)
		}
		a.answer(t)
		s = <-seen
		record = a.record
	case s = <-seen: // it went elsewhere, or nowhere
	}
	if s.Error != "" || s.Answer != "bridge" {
		t.Fatalf("%+v: answer %q, error %q", c, s.Answer, s.Error)
	}
	return s, record
}

// standIn listens in the place of IMDS, and answers with "imds" and the address called.
func standIn(t *testing.T, l *lab.Lab, addrs ...string) {
	t.Helper()
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	for _, at := range addrs {
		listener, err := l.IMDS().Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		serving.Go(func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "imds %s", c.LocalAddr())
				c.Close()
			}
		})
	}
}

// expectIMDS makes calls that must all be answered where they were meant for.
func expectIMDS(t *testing.T, in *lab.Namespace, calls ...call) {
	t.Helper()
	client := start(t, in, calls)
	for _, c := range calls {
		if s := client.next(t); s.Error != "" || s.Answer != "imds "+c.To || s.Peer != c.To {
			t.Errorf("%+v: answer %q from %s, error %q", c, s.Answer, s.Peer, s.Error)
		}
	}
}

// expectIMDS is the other expectIMDS. It does not wait for a bridge that gets the calls instead.
func (b *bridge) expectIMDS(t *testing.T, in *lab.Namespace, calls ...call) {
	t.Helper()
	defer b.turnAway(t)()
	expectIMDS(t, in, calls...)
}

// turnAway closes what comes to the bridge, where nothing should, until it is told to stop.
func (b *bridge) turnAway(t *testing.T) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case a := <-b.arrivals:
				t.Errorf("a call of process %d came to the bridge", a.record.PID)
				a.Close()
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

// expectCounters waits until the counters are as given; those not given are zero.
func (b *bridge) expectCounters(t *testing.T, want map[Outcome]uint64) {
	t.Helper()
	expectCounters(t, b.hook, want)
}

func expectCounters(t *testing.T, hook *Hook, want map[Outcome]uint64) {
	t.Helper()
	var got map[Outcome]uint64
	eventually(t, func() error {
		var err error
		if got, err = hook.Counters(); err != nil {
			return err
		}
		for _, o := range outcomes {
			if got[o] != want[o] {
				return fmt.Errorf("%s is %d, want %d; all: %v", o, got[o], want[o], got)
			}
		}
		return nil
	})
}

// eventually waits until f returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	patience := patience
	if t.Failed() { // what depends on it need not come about
		patience = time.Second
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// entries counts what is in a map.
func entries(t *testing.T, m *ebpf.Map) int {
	t.Helper()
	n := 0
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	it := m.Iterate()
	for it.Next(&key, &value) {
		n++
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// hasAddress tells whether lo has the address in a namespace.
func hasAddress(t *testing.T, n *lab.Namespace, a netip.Addr) (has bool) {
	t.Helper()
	if err := n.Do(func() error {
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			return err
		}
		all, err := lo.Addrs()
		has = slices.ContainsFunc(all, func(one net.Addr) bool {
			return one.(*net.IPNet).IP.Equal(a.AsSlice())
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return has
}
