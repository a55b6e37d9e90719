package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// concurrency is how many calls a client has under way at once.
var concurrency = []int{1, 32}

// settle is how long after a slice of load its log lines and spans are still under way.
const settle = 150 * time.Millisecond

// row is one line of the comparison: medians over the rounds.
type row struct {
	Proxy       string
	Connections int
	P50         time.Duration
	P90         time.Duration
	P99         time.Duration
	Rate        float64       // calls a second
	CPU         time.Duration // of the proxy, for one call
	Spread      float64       // largest p50 of a round by the smallest: the noise of the machine
}

// memory is the resident set of a proxy, in bytes.
type memory struct {
	Proxy             string
	AtRest, AfterLoad int64
}

// comparison is what the rounds gave.
type comparison struct {
	Rows    []row
	Memory  []memory
	Calls   int // that the bridge served
	Lines   int // that it wrote of them
	Dropped int // spans and lines that it lost, by its own count
}

// slice is one proxy under one load in one round.
type slice struct {
	load
	cpu time.Duration
}

type series struct {
	proxy       string
	connections int
}

// compare puts the same load on every proxy in turn, round by round, so that what else happens on
// the machine falls on all alike.
func (p *place) compare(proxies []proxy, b *bridge, o options) (*comparison, error) {
	c := &comparison{}
	for _, x := range proxies {
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
			for _, n := range concurrency {
				s, err := p.slice(x, n, o.slice)
				if err != nil {
					return nil, fmt.Errorf("%s, %d at once: %w", x.name, n, err)
				}
				seen[series{x.name, n}] = append(seen[series{x.name, n}], s)
				if x.hooked {
					if err := c.account(b, s); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	for i, x := range proxies {
		bytes, err := resident(family(x.process))
		if err != nil {
			return nil, err
		}
		c.Memory[i].AfterLoad = bytes
	}
	for _, n := range concurrency {
		for _, x := range proxies {
			c.Rows = append(c.Rows, summarize(series{x.name, n}, seen[series{x.name, n}]))
		}
	}
	dropped, err := b.dropped()
	c.Dropped = int(dropped)
	return c, err
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
	var start func(*exec.Cmd) error = p.lab.Host().StartOutside
	if x.hooked {
		start = p.lab.Host().Start
	}
	err = p.role(start, &l, "load", "-to", x.addr, fmt.Sprintf("-token=%t", x.token),
		fmt.Sprintf("-connections=%d", connections), fmt.Sprintf("-for=%s", lasting))
	return l, err
}

// account keeps the books of what the bridge did beside answering.
func (c *comparison) account(b *bridge, s slice) error {
	lines, err := b.takeLines()
	c.Calls += s.Calls
	c.Lines += lines
	return err
}

func summarize(key series, seen []slice) row {
	of := func(f func(slice) time.Duration) time.Duration { return medianOf(seen, f) }
	p50 := func(s slice) time.Duration { return s.P50 }
	return row{
		Proxy: key.proxy, Connections: key.connections,
		P50:    of(p50),
		P90:    of(func(s slice) time.Duration { return s.P90 }),
		P99:    of(func(s slice) time.Duration { return s.P99 }),
		CPU:    of(func(s slice) time.Duration { return s.cpu }),
		Rate:   medianOf(seen, func(s slice) float64 { return s.Rate }),
		Spread: spread(seen, p50),
	}
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
	return float64(slices.Max(values)) / float64(slices.Min(values))
}

// profileUnderLoad keeps profiles of the bridge while it serves.
func (p *place) profileUnderLoad(b *bridge, dir string) error {
	note("profile")
	loaded := make(chan error, 1)
	go func() {
		_, err := p.load(b.proxy(), concurrency[len(concurrency)-1], 6*time.Second)
		loaded <- err
	}()
	err := b.profile("profile?seconds=5", filepath.Join(dir, "bench-cpu.pprof"))
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
	return b.profile("allocs", filepath.Join(dir, "bench-allocs.pprof"))
}
