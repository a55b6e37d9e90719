package watch

import (
	"time"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// read puts exchanges together until the ring ends, which Close brings about.
func (w *Watch) read(netns uint32) {
	defer close(w.unnamed)
	defer close(w.questions)
	defer close(w.met)
	streams := newStreams(netns)
	streams.identify, streams.tell, streams.counts = w.identify, w.tell, &w.counts
	streams.meets = w.meets

	var p packet
	add := func(record []byte) {
		if p.read(record) == nil {
			streams.add(&p)
		}
		clear(record) // there may be a token in it
	}
	ticked := time.Now()
	for {
		// With nothing to wait for, nothing wakes this goroutine.
		deadline := time.Time{}
		if streams.waiting() {
			deadline = ticked.Add(tickEvery)
		}
		more := w.ring.wait(deadline)
		if empty := w.ring.drain(add); empty && !more {
			streams.close(monotonic())
			return
		}
		if now := time.Now(); now.Sub(ticked) >= tickEvery {
			ticked = now
			streams.tick(monotonic())
		}
	}
}

// telling is an exchange, and who it is of.
type telling struct {
	exchange *Exchange
	who      *identity
}

// tell hands an exchange to report, by way of await where it is not known yet who it is of. It does not
// wait.
func (w *Watch) tell(x *Exchange, who *identity) {
	queue := w.unnamed
	if who.isFinal() {
		queue = w.exchanges
	}
	select {
	case queue <- telling{x, who}:
	default:
		w.counts.add(countQueueFull, 1)
	}
}

// await waits for those whose owner is looked for, so that no others do.
func (w *Watch) await() {
	defer close(w.exchanges) // read ended before unnamed did
	for t := range w.unnamed {
		<-t.who.ready
		w.exchanges <- t
	}
}

// meets hands on who has a connection that was recorded. It does not wait: who finds no place is met later.
func (w *Watch) meets(c redirect.Connection) {
	select {
	case w.met <- c:
	default:
	}
}

func (w *Watch) meet(met func(redirect.Connection)) {
	for c := range w.met {
		if met != nil {
			met(c)
		}
	}
}

// report tells of exchanges until there are no more.
func (w *Watch) report(seen func(Exchange)) {
	for t := range w.exchanges {
		x, who := t.exchange, t.who
		x.Connection, x.Known = who.connection, who.known
		x.Recorded, x.Outcome = who.recorded, who.outcome
		if !x.Known {
			w.counts.add(countUnnamed, 1)
		}
		seen(*x)
	}
}
