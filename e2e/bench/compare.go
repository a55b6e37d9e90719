package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// concurrency is how many calls a client has under way at once.
var concurrency = []int{1, 32}

// settle is how long after a slice of load its log lines and spans are still under way.
const settle = 150 * time.Millisecond

// Names of calls without a proxy.
const (
	hostDirect      = "direct"
	containerDirect = "direct, container"
)

// row is one line of the comparison: medians over the rounds.
type row struct {
	Proxy       string
	Direct      string // the proxy of the row that it is measured against; "" for such a row itself
	Connections int
	P50         time.Duration
	P90         time.Duration
	P99         time.Duration
	Rate        float64       // calls a second
	CPU         time.Duration // of the proxy, for one call
	Wrong       int           // calls of all rounds that got another answer than they should
	Spread      float64       // largest p50 of a round by the smallest: the noise of the machine
}

// memory is the resident set of a proxy, in bytes.
type memory struct {
	Proxy             string
	AtRest, AfterLoad int64
}

// comparison is what the rounds gave.
type comparison struct {
	Rows     []row
	Memory   []memory
	Calls    int // that the bridges served
	Lines    int // that they wrote of them
	Dropped  int // spans and lines that they lost, by their own count
	Failures []failure
}

// failure is a proxy that did not stand its load in one round. It is not in the medians, the other rounds and
// proxies go on, and the run ends with an error.
type failure struct {
	Proxy       string
	Connections int
	Round       int
	Why         string
}

func (f failure) String() string {
	return fmt.Sprintf("%s, %d at once, round %d: %s", f.Proxy, f.Connections, f.Round, f.Why)
}

// failed is an error that names who failed.
func (c *comparison) failed() error {
	var errs []error
	for _, f := range c.Failures {
		errs = append(errs, errors.New(f.String()))
	}
	return errors.Join(errs...)
}

// slice is one proxy under one load in one round.
type slice struct {
	load
	cpu    time.Duration
	failed bool
}

type series struct {
	proxy       string
	connections int
}

// compare puts the same load on every proxy in turn, round by round, so that what else happens on
// the machine falls on all alike.
func (p *place) compare(proxies []proxy, o options) (*comparison, error) {
	c := &comparison{}
	each := servers(proxies)
	for _, x := range each {
		bytes, err := resident(family(x.process))
		if err != nil {
			return nil, err
		}
		c.Memory = append(c.Memory, memory{Proxy: x.name, AtRest: bytes})
	}
	seen := map[series][]slice{}
	for round := range o.rounds {
		note("round %d of %d", round+1, o.rounds)
		for i := range proxies {
			x := proxies[(round+i)%len(proxies)]
			for _, n := range x.atOnce {
				s, err := p.slice(x, n, o.slice)
				if p.ctx.Err() != nil {
					return nil, context.Cause(p.ctx)
				}
				if err != nil {
					f := failure{x.name, n, round + 1, err.Error() + x.complaint()}
					note("failed: %s", f)
					c.Failures, s.failed = append(c.Failures, f), true
				}
				seen[series{x.name, n}] = append(seen[series{x.name, n}], s)
				if err := c.account(x.bridge, s); err != nil {
					return nil, err
				}
			}
		}
	}
	for i, x := range each {
		bytes, err := resident(family(x.process))
		if err != nil {
			return nil, err
		}
		c.Memory[i].AfterLoad = bytes
	}
	for _, n := range concurrency {
		for _, x := range proxies {
			if slices.Contains(x.atOnce, n) {
				c.Rows = append(c.Rows, summarize(x, n, seen[series{x.name, n}]))
			}
		}
	}
	for _, x := range each {
		if x.bridge == nil {
			continue
		}
		dropped, err := x.bridge.dropped()
		if err != nil {
			return nil, err
		}
		c.Dropped += int(dropped)
	}
	return c, nil
}

// servers are the proxies with a process, once each: a bridge serves the host and its containers.
func servers(proxies []proxy) (each []proxy) {
	seen := map[*os.Process]bool{nil: true}
	for _, x := range proxies {
		if !seen[x.process] {
			seen[x.process] = true
			each = append(each, x)
		}
	}
	return each
}

// slice loads one proxy.
func (p *place) slice(x proxy, connections int, lasting time.Duration) (s slice, err error) {
	pids := family(x.process)
	before, err := cpuTime(pids)
	if err != nil {
		return s, err
	}
	if s.load, err = p.load(x, connections, lasting); err != nil {
		return s, err
	}
	if err := p.pause(settle); err != nil {
		return s, err
	}
	after, err := cpuTime(pids)
	if err != nil {
		return s, err
	}
	s.cpu = (after - before) / time.Duration(s.Calls)
	return s, nil
}

// load runs a client in a process of its own.
func (p *place) load(x proxy, connections int, lasting time.Duration) (l load, err error) {
	err = p.role(x.start, &l, "load", "-to", x.addr, fmt.Sprintf("-token=%t", x.token),
		fmt.Sprintf("-connections=%d", connections), fmt.Sprintf("-for=%s", lasting))
	if err == nil {
		err = l.check()
	}
	return l, err
}

// account keeps the books of what a bridge did beside answering.
func (c *comparison) account(b *bridge, s slice) error {
	if b == nil {
		return nil
	}
	lines, err := b.takeLines()
	if s.failed {
		return err // calls went past it, nobody knows how many
	}
	c.Calls += s.Calls
	c.Lines += lines
	return err
}

// summarize leaves out rounds that failed, but for the wrong answers. Without any other the row has no times.
func summarize(x proxy, connections int, all []slice) row {
	seen := slices.DeleteFunc(slices.Clone(all), func(s slice) bool { return s.failed })
	of := func(f func(slice) time.Duration) time.Duration { return medianOf(seen, f) }
	p50 := func(s slice) time.Duration { return s.P50 }
	return row{
		Proxy: x.name, Direct: x.direct, Connections: connections,
		P50:    of(p50),
		P90:    of(func(s slice) time.Duration { return s.P90 }),
		P99:    of(func(s slice) time.Duration { return s.P99 }),
		CPU:    of(func(s slice) time.Duration { return s.cpu }),
		Rate:   medianOf(seen, func(s slice) float64 { return s.Rate }),
		Wrong:  wrong(all),
		Spread: spread(seen, p50),
	}
}

func wrong(items []slice) (n int) {
	for _, s := range items {
		n += s.Wrong
	}
	return n
}

func medianOf[S any, T float64 | time.Duration](items []S, f func(S) T) T {
	var values []T
	for _, s := range items {
		values = append(values, f(s))
	}
	return median(values)
}

func spread(items []slice, f func(slice) time.Duration) float64 {
	var values []time.Duration
	for _, s := range items {
		values = append(values, f(s))
	}
	if len(values) == 0 {
		return 0
	}
	return float64(slices.Max(values)) / float64(slices.Min(values))
}

// profileUnderLoad keeps profiles of a bridge while it serves.
func (p *place) profileUnderLoad(b *bridge, connections int, prefix string) error {
	note("profile %s", prefix)
	loaded := make(chan error, 1)
	go func() {
		_, err := p.load(b.proxy("bridge"), connections, 6*time.Second)
		loaded <- err
	}()
	err := b.profile("profile?seconds=5", prefix+"-cpu.pprof")
	if err != nil {
		return err
	}
	if err := <-loaded; err != nil {
		return err
	}
	_, err = b.takeLines()
	if err != nil {
		return err
	}
	return b.profile("allocs", prefix+"-allocs.pprof")
}
