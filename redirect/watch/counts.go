package watch

import (
	"fmt"
	"sync/atomic"
)

// Count names something that is counted.
type Count string

// sights are what the kernel program counts, in the order of enum sight in bpf/watch.c.
var sights = [watchSightSIGHT_COUNT]Count{
	watchSightSIGHT_SENT:       "sent",
	watchSightSIGHT_RECEIVED:   "received",
	watchSightSIGHT_BYTES:      "bytes",
	watchSightSIGHT_EXEMPT:     "exempt",
	watchSightSIGHT_UNREADABLE: "unreadable",
	watchSightSIGHT_LOST:       "ring_full",
}

// count is an index of what user space counts.
type count int

const (
	countRequests  count = iota // whole requests
	countMalformed              // connections that sent something else
	countSilent                 // connections that ended without having sent anything
	countUnsynced               // segments of which it is not known where requests begin
	countGaps                   // parts of a connection that were never seen
	countEvicted                // connections given up for lack of room
	countQueueFull              // exchanges that nobody was told of
	countUnnamed                // exchanges of nobody knows whom
	countAll
)

var countNames = [countAll]Count{
	"requests", "malformed", "silent", "unsynced", "gaps", "evicted", "queue_full", "unnamed",
}

type counts [countAll]atomic.Uint64

func (c *counts) add(which count, n uint64) { c[which].Add(n) }

// Counters says how often each came about since [Attach]; after Close, until then.
func (w *Watch) Counters() (map[Count]uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.final != nil {
		return w.final, nil
	}
	return w.counters()
}

func (w *Watch) counters() (map[Count]uint64, error) {
	all := make(map[Count]uint64, len(sights)+len(countNames))
	for i, name := range sights {
		var perCPU []uint64
		if err := w.objects.Counters.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			all[name] += n
		}
	}
	for i, name := range countNames {
		all[name] = w.counts[i].Load()
	}
	return all, nil
}
