package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// beatsPerLimit is how often the bridge beats within the redirector's patience.
const beatsPerLimit = 3

// pulse tells the redirector that the bridge is alive, and each beat is earned: a call of our own has
// gone through the proxy. A bridge that hangs, is stuck in a lock or has nothing left to serve with
// gets no further calls within the patience.
type pulse struct {
	limit   time.Duration // the redirector's patience
	probe   func(context.Context, netip.AddrPort) error
	beat    func() error
	failed  func(error) // the redirector cannot be told any longer
	at      []*redirect.Listener
	alive   atomic.Int64 // when the last probe came back, in ns since began
	began   time.Time
	holding atomic.Bool // between hold and resume, when beats need not be earned
	probing atomic.Pointer[context.CancelFunc]

	stop    context.CancelFunc
	stopped sync.WaitGroup
}

// start beats until stop is called.
func (p *pulse) start() {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop, p.began = cancel, time.Now()
	p.stopped.Go(func() { p.run(ctx) })
}

func (p *pulse) run(ctx context.Context) {
	tick := time.NewTicker(p.limit / beatsPerLimit)
	defer tick.Stop()
	for ctx.Err() == nil {
		if p.holding.Load() || p.probeAll(ctx) == nil {
			p.alive.Store(int64(time.Since(p.began)))
			if err := p.beat(); err != nil && !errors.Is(err, os.ErrClosed) {
				p.failed(fmt.Errorf("tell the redirector that the bridge is alive: %w", err))
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// hold is for a pause, when nobody accepts what a probe sends: beats go on without. A probe that is
// under way ends.
func (p *pulse) hold() {
	p.holding.Store(true)
	if cancel := p.probing.Load(); cancel != nil {
		(*cancel)()
	}
	p.beatOnce()
}

func (p *pulse) resume() {
	p.beatOnce()
	p.holding.Store(false)
}

// beatOnce is a beat that was earned in another way than by a probe.
func (p *pulse) beatOnce() {
	if p.beat != nil {
		_ = p.beat() // an error comes again with the next one
	}
}

// probeAll takes no longer than the redirector waits: what comes later is no sign of life.
func (p *pulse) probeAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	p.probing.Store(&cancel)
	if p.holding.Load() { // since we looked, and it found no probe to end
		return nil
	}
	for _, l := range p.at {
		if err := p.probe(ctx, l.Addr().(*net.TCPAddr).AddrPort()); err != nil {
			return err
		}
	}
	return nil
}

// isAlive tells whether a probe came back within the redirector's patience.
func (p *pulse) isAlive() bool {
	return time.Since(p.began)-time.Duration(p.alive.Load()) <= p.limit
}

// end stops beating.
func (p *pulse) end() {
	if p.stop != nil {
		p.stop()
		p.stopped.Wait()
	}
}
