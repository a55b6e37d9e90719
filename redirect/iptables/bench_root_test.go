//go:build root

package iptables

import (
	"context"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
	"github.com/imds-bridge/imds-bridge/redirect/owner"
)

// What a call takes from connect() to the end of its answer where the one who answers does nothing but
// look up the caller: by the rules, by the hook, and not redirected.
func BenchmarkCall(b *testing.B) {
	l := newLab(b)
	box := addContainer(b, l, "one")
	for name, in := range map[string]*lab.Namespace{"host": l.Host(), "container": box} {
		b.Run("direct from "+name, func(b *testing.B) { measure(b, in) })
	}
	for _, backend := range backends() {
		stop := serveByRules(b, l, backend)
		for name, in := range map[string]*lab.Namespace{"host": l.Host(), "container": box} {
			b.Run(backend+" from "+name, func(b *testing.B) { measure(b, in) })
		}
		stop()
	}
	defer serveByHook(b, l)()
	for name, in := range map[string]*lab.Namespace{"host": l.Host(), "container": box} {
		b.Run("hook from "+name, func(b *testing.B) { measure(b, in) })
	}
}

// serve answers those whose caller lookup knows.
func serve(b *testing.B, l *lab.Lab, lookup func(net.Conn) error) (stop func()) {
	b.Helper()
	var listener net.Listener
	if err := l.Host().Do(func() (err error) {
		listener, err = redirect.Listen(context.Background(), listen4)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			if err := lookup(c); err == nil {
				fmt.Fprint(c, "bridge")
			}
			c.Close()
		}
	}()
	return func() { _ = l.Host().Do(listener.Close); <-ended }
}

func serveByRules(b *testing.B, l *lab.Lab, backend string) (stop func()) {
	b.Helper()
	o := options(b, backend)
	o.Heartbeat = time.Hour
	var r *Redirector
	var owners *owner.Finder
	if err := l.Host().Do(func() (err error) {
		if owners, err = owner.New(owner.Options{}); err != nil {
			return err
		}
		o.Owners = owners
		r, err = Attach(o)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	deaf := serve(b, l, func(c net.Conn) error { _, err := r.Lookup(c); return err })
	return func() {
		if err := r.Close(); err != nil {
			b.Error(err)
		}
		deaf()
		owners.Close()
	}
}

func serveByHook(b *testing.B, l *lab.Lab) (stop func()) {
	b.Helper()
	var h *hook.Hook
	if err := l.Host().Do(func() (err error) {
		h, err = hook.Attach(hook.Options{Cgroup: l.Cgroup(), Listen: listen4, Mark: mark, Heartbeat: time.Hour, Connections: 1024})
		return err
	}); err != nil {
		b.Fatal(err)
	}
	deaf := serve(b, l, func(c net.Conn) error { _, err := h.Lookup(c); return err })
	return func() { h.Close(); deaf() }
}

// measure reports the median of the calls of one process.
func measure(b *testing.B, in *lab.Namespace) {
	b.Helper()
	const warm = 50
	client := startCalls(b, in, call{To: imds4, Times: b.N + warm})
	took := make([]time.Duration, 0, b.N+warm)
	for range b.N + warm {
		s := client.next(b)
		if s.Error != "" {
			b.Fatal(s.Error)
		}
		took = append(took, s.Took)
	}
	took = took[warm:]
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(0, "ns/op")
}
