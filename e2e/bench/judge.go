package main

import (
	"fmt"
	"time"
)

// reach is one figure that is to be reached, and what was.
type reach struct {
	Name  string
	Limit float64
	Got   float64
	Unit  string
	Met   bool
}

// notMeasured is the figure of what failed.
const notMeasured = -1

func newReach(name string, limit, got float64, unit string) reach {
	return reach{name, limit, got, unit, got <= limit && got != notMeasured}
}

func (r reach) verdict() string {
	if r.Met {
		return "met"
	}
	if r.Got == notMeasured {
		return "not measured"
	}
	if r.Limit == 0 {
		return "missed"
	}
	return fmt.Sprintf("missed by %.0f %%", 100*(r.Got/r.Limit-1))
}

// judge compares the figures with those that are to be reached.
func (r *result) judge() (all []reach) {
	for _, n := range concurrency {
		all = append(all,
			newReach(fmt.Sprintf("added p50 at %d, by nginx's", n), 1.5, r.addedRatio("bridge", n), "×"),
			newReach(fmt.Sprintf("CPU per call at %d, by nginx's", n), 1.5, r.cpuRatio("bridge", n), "×"))
	}
	i, w, a := r.Identity, r.Watch, r.Attribution
	all = append(all,
		newReach("added p50 at 1 by iptables, by the hook's", 1.3, r.addedBy("bridge, iptables", "bridge", 1), "×"),
		newReach("the same from a container", 1.3, r.addedBy("bridge, iptables, container", "bridge, container", 1), "×"),
		newReach("watch on a packet elsewhere, sent and received", 200, float64(w.Packet.Added), "ns"),
		newReach(fmt.Sprintf("calls that the watch missed, of %d at %.0f a second", w.Made, w.Rate), 0, float64(w.Made-w.Seen), "calls"),
		newReach("events that it lost at that", 0, float64(w.Lost), "events"))
	for _, p := range w.Programs {
		all = append(all, newReach("watch on a packet elsewhere, program at "+p.Name, 200, float64(p.Run), "ns"))
	}
	return append(all,
		newReach("hook on connect() elsewhere: connect hook alone (UDP)", 100, float64(r.Hook.UDP.Added), "ns"),
		newReach("hook on connect() elsewhere: with sockops, and the watch (TCP)", 100, float64(r.Hook.TCP.Added), "ns"),
		newReach("resident set at rest", 32, float64(r.memoryOf("bridge").AtRest)/(1<<20), "MiB"),
		newReach("start to ready", 300, milliseconds(max(r.Starting.Ready, r.Starting.Notice)), "ms"),
		newReach(fmt.Sprintf("added p50 of a known caller, with %d known by alone", i.Callers), 1.1, ratio(i.AddedMany, i.AddedFew), "×"),
		newReach(fmt.Sprintf("first call of a new caller, the last by the first of %d", i.Callers), 1.1, ratio(i.NewLast, i.NewFirst), "×"),
		newReach("attribution on the way of a call, of a caller met before", 20, microseconds(max(a.Again.First, a.Again.Last)), "µs"),
		newReach("the same of a new caller", 1000, microseconds(max(a.New.First, a.New.Last)), "µs"),
		newReach(fmt.Sprintf("the same, the last by the first of %d, with %d containers", a.Callers, a.Containers), 1.1, ratio(a.New.Last, a.New.First), "×"),
		newReach("heap for each caller that is remembered", 2048, float64(a.Heap), "bytes"),
	)
}

func (r *result) row(proxy string, connections int) row {
	for _, row := range r.Comparison.Rows {
		if row.Proxy == proxy && row.Connections == connections {
			return row
		}
	}
	return row{}
}

func (r *result) memoryOf(proxy string) memory {
	for _, m := range r.Comparison.Memory {
		if m.Proxy == proxy {
			return m
		}
	}
	return memory{}
}

// added is what a proxy adds to the p50 of a direct call from the same place.
func (r *result) added(proxy string, connections int) time.Duration {
	with := r.row(proxy, connections)
	return with.P50 - r.row(with.Direct, connections).P50
}

// addedBy is what a proxy adds, by what another one does.
func (r *result) addedBy(proxy, other string, connections int) float64 {
	if !r.measured(proxy, connections) || !r.measured(other, connections) {
		return notMeasured
	}
	return ratio(r.added(proxy, connections), r.added(other, connections))
}

func (r *result) addedRatio(proxy string, connections int) float64 {
	return r.addedBy(proxy, "nginx", connections)
}

func (r *result) cpuRatio(proxy string, connections int) float64 {
	if !r.measured(proxy, connections) || !r.measured("nginx", connections) {
		return notMeasured
	}
	return ratio(r.row(proxy, connections).CPU, r.row("nginx", connections).CPU)
}

// measured tells whether a proxy stood its load in any round, and so did the direct calls.
func (r *result) measured(proxy string, connections int) bool {
	with := r.row(proxy, connections)
	return with.P50 > 0 && (with.Direct == "" || r.row(with.Direct, connections).P50 > 0)
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
