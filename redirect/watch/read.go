package watch

import (
	"errors"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// read puts exchanges together until the ring is flushed, which Close does.
func (w *Watch) read(netns uint32) {
	defer close(w.exchanges)
	defer close(w.questions)
	streams := newStreams(netns)
	streams.identify, streams.tell, streams.counts = w.identify, w.tell, &w.counts

	var record ringbuf.Record
	var p packet
	ticked := time.Now()
	for {
		// With nothing to wait for, nothing wakes this goroutine.
		deadline := time.Time{}
		if streams.waiting() {
			deadline = ticked.Add(tickEvery)
		}
		w.reader.SetDeadline(deadline)
		err := w.reader.ReadInto(&record)
		switch {
		case err == nil:
			if p.read(record.RawSample) == nil {
				streams.add(&p)
			}
			clear(record.RawSample) // there may be a token in it
		case !errors.Is(err, os.ErrDeadlineExceeded):
			streams.close(monotonic())
			return
		}
		if now := time.Now(); now.Sub(ticked) >= tickEvery {
			ticked = now
			streams.tick(monotonic())
		}
	}
}

// tell hands an exchange to report. It does not wait.
func (w *Watch) tell(x *Exchange, who *identity) {
	select {
	case w.exchanges <- telling{x, who}:
	default:
		w.counts.add(countQueueFull, 1)
	}
}

// report tells of exchanges until there are no more.
func (w *Watch) report(seen func(Exchange)) {
	for t := range w.exchanges {
		t.who.await()
		x := t.exchange
		x.Connection, x.Known = t.who.connection, t.who.known
		x.Recorded, x.Outcome = t.who.recorded, t.who.outcome
		if !x.Known {
			w.counts.add(countUnnamed, 1)
		}
		seen(*x)
	}
}
