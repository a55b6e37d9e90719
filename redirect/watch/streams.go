package watch

import (
	"container/list"
	"net/netip"
	"time"

	"github.com/imds-bridge/imds-bridge/redirect"
)

const (
	// maxStreams and maxHeld bound what is kept of all connections together. The one that has been
	// quiet for longest is given up for a new one.
	maxStreams = 16384
	maxHeld    = 32 << 20

	// answerPatience is how long a request waits for its answer.
	answerPatience = 10 * time.Second
	// gapPatience is how long bytes wait for those before them, which the ring may have lost.
	gapPatience = 500 * time.Millisecond
	// quietPatience is how long a connection is remembered that sends nothing.
	quietPatience = time.Minute
	// endedPatience is how long one is remembered that has ended, and may send something again.
	endedPatience = 3 * time.Second

	// tickEvery is how often patience is looked at.
	tickEvery = 250 * time.Millisecond
)

// streams puts requests together from packets. It is not safe for concurrent use.
type streams struct {
	ownNetNS uint32
	// identify starts to find out who has the socket of a connection that nobody recorded.
	identify func(client, imds netip.AddrPort, c redirect.Connection) *identity
	tell     func(*Exchange, *identity) // gets each exchange once
	meets    func(redirect.Connection)  // gets each caller that was recorded; optional
	counts   *counts

	all    map[streamKey]*list.Element
	recent *list.List // of *stream, the quietest first
	held   int        // bytes kept for all
}

func newStreams(ownNetNS uint32) *streams {
	return &streams{ownNetNS: ownNetNS, all: make(map[streamKey]*list.Element), recent: list.New()}
}

// waiting tells whether there is anything that tick may have to end.
func (t *streams) waiting() bool { return t.recent.Len() > 0 }

// add takes one packet.
func (t *streams) add(p *packet) {
	s := t.find(p)
	if s == nil {
		return
	}
	before := s.held()
	if p.sent() {
		t.sent(s, p)
	} else {
		t.received(s, p)
	}
	t.held += s.held() - before
	for t.held > maxHeld || t.recent.Len() > maxStreams {
		t.counts.add(countEvicted, 1)
		t.drop(t.recent.Front(), p.at())
	}
}

// find returns the stream of a packet, nil for one that is of none and begins none.
func (t *streams) find(p *packet) *stream {
	key := streamKey{socket: p.SocketCookie}
	if p.Raw != 0 {
		key.client, key.imds = p.client(), p.imds()
	}
	element := t.all[key]
	opens := p.sent() && p.Flags&(flagSYN|flagACK) == flagSYN
	if element != nil && opens && !element.Value.(*stream).repeats(p) {
		t.drop(element, p.at()) // the socket has another connection now
		element = nil
	}
	if element == nil {
		if !p.sent() || !opens && p.Payload == 0 {
			return nil
		}
		element = t.recent.PushBack(t.begin(key, p, opens))
		t.all[key] = element
	}
	t.recent.MoveToBack(element)
	s := element.Value.(*stream)
	s.touched = p.at()
	return s
}

func (t *streams) begin(key streamKey, p *packet, opens bool) *stream {
	s := &stream{key: key, client: p.client(), imds: p.imds(), raw: p.Raw != 0}
	c, known := p.connection(t.ownNetNS)
	if known {
		s.who = &identity{connection: c, known: true, recorded: true, outcome: p.Who.Outcome}
		if t.meets != nil {
			t.meets(c)
		}
	} else {
		s.who = t.identify(s.client, s.imds, c)
	}
	if opens {
		s.fromStart, s.synced, s.certain = true, true, true
		s.first, s.next = p.Sequence, p.Sequence+1
	}
	return s
}

// sent takes a packet to IMDS.
func (t *streams) sent(s *stream, p *packet) {
	if len(p.data) > 0 {
		s.spoke = true
		t.take(s, segment{p.at(), p.sequence(), p.Offset == 0, p.data})
		t.takeLater(s, p.at())
	}
	if p.Flags&flagRST != 0 {
		t.end(s, p.at())
	}
	// One that said nothing never will. The FIN of IMDS may not show: a socket that nobody has any
	// more is replaced by one that remembers its addresses alone.
	if s.finSent = s.finSent || p.Flags&flagFIN != 0; s.finSent && (s.finReceived || !s.spoke) {
		t.end(s, p.at())
	}
}

// received takes a packet from IMDS.
func (t *streams) received(s *stream, p *packet) {
	if status := parseStatus(p.data); status > 0 && !isInterim(status) && s.isNewAnswer(p.Sequence) {
		t.answer(s, status, p.at())
	}
	if p.Flags&(flagFIN|flagRST) != 0 {
		s.finReceived = true
		t.giveUp(s, p.at()) // no answer comes after that
	}
	if p.Flags&flagRST != 0 || s.finSent && s.finReceived {
		t.end(s, p.at())
	}
}

// isInterim tells an answer that another follows (RFC 9110, section 15.2).
func isInterim(status int) bool { return status < 200 && status != 101 }

// take takes the next segment, or one that came before it again, or after it already.
func (t *streams) take(s *stream, g segment) {
	if s.synced && (s.distance(g) > farAway || s.distance(g) < -farAway) {
		s.lose()
	}
	if !s.synced && !s.sync(g) {
		t.counts.add(countUnsynced, 1)
		return
	}
	d := s.distance(g)
	if d > 0 && s.requests.pass(d) {
		s.next, d = g.sequence, 0 // what is missing is of a body
	}
	switch {
	case d > 0:
		s.keep(g)
		return
	case -d >= int64(len(g.data)):
		return // sent again
	}
	g.data = g.data[-d:]
	s.next += uint32(len(g.data))
	err := s.requests.add(g.at, g.data, func(begun time.Duration, h head) { t.ask(s, begun, g.at, h) })
	if err != nil {
		t.malformed(s, g.at)
	}
}

// takeLater takes what has waited for its turn, and what has waited for too long.
func (t *streams) takeLater(s *stream, now time.Duration) {
	for len(s.later) > 0 {
		i := s.turn()
		if i < 0 {
			if now-s.later[0].at < gapPatience && s.heldLater() <= maxLater {
				return
			}
			t.counts.add(countGaps, 1)
			s.lose()
			i = 0
		}
		g := s.later[i]
		s.later = append(s.later[:i], s.later[i+1:]...)
		t.take(s, g)
		clear(g.data)
	}
}

// ask notes a request. Its answer is the next that no other request waits for.
func (t *streams) ask(s *stream, begun, whole time.Duration, h head) {
	t.counts.add(countRequests, 1)
	s.certain = true
	if len(s.waiting) > 0 && s.waiting[0].passedOver {
		// Answers of several requests may have come in one segment, of which only the first shows:
		// whose answer the next one is cannot be told.
		s.blind = true
		t.giveUp(s, whole)
	}
	w := t.pending(s, begun, whole)
	x := &w.exchange
	x.Method, x.Target, x.Proto, x.Host, x.Header = h.method, h.target, h.proto, h.host, h.header
	if s.blind || s.finReceived {
		t.complete(s, w, 0, whole)
		return
	}
	if len(s.waiting) == maxWaiting { // nobody answers
		s.blind = true
		t.giveUp(s, whole)
		t.complete(s, w, 0, whole)
		return
	}
	s.waiting = append(s.waiting, w)
}

func (t *streams) pending(s *stream, begun, whole time.Duration) *pending {
	return &pending{
		exchange: Exchange{Client: s.client, IMDS: s.imds, Raw: s.raw},
		begun:    begun,
		whole:    whole,
	}
}

// malformed tells of what is no request, where one must have come.
func (t *streams) malformed(s *stream, at time.Duration) {
	if s.certain {
		t.counts.add(countMalformed, 1)
		w := t.pending(s, at, at)
		w.exchange.Malformed = true
		s.waiting = append(s.waiting, w)
	}
	s.lose()
}

// answer gives a status to the request that has waited for longest.
func (t *streams) answer(s *stream, status int, at time.Duration) {
	if len(s.waiting) == 0 && !s.blind && s.certain && len(s.requests.head) > 0 {
		t.malformed(s, at) // it was request enough to be answered
	}
	if len(s.waiting) == 0 {
		return
	}
	w := s.waiting[0]
	s.waiting = s.waiting[1:]
	for _, other := range s.waiting {
		other.passedOver = true
	}
	t.complete(s, w, status, at)
}

// giveUp ends the wait for all answers.
func (t *streams) giveUp(s *stream, at time.Duration) {
	for _, w := range s.waiting {
		t.complete(s, w, 0, at)
	}
	s.waiting = nil
}

func (t *streams) complete(s *stream, w *pending, status int, at time.Duration) {
	// By one reading of both clocks, or the time between would jump when the time of day is set.
	boot := time.Now().Add(-monotonic())
	x := &w.exchange
	x.Start, x.End, x.Status = boot.Add(w.begun), boot.Add(at), status
	t.tell(&w.exchange, s.who)
}

// end takes leave of a connection that has ended. It is remembered for a while.
func (t *streams) end(s *stream, at time.Duration) {
	if s.ended {
		return
	}
	s.ended = true
	if s.certain && len(s.requests.head) > 0 {
		t.malformed(s, at)
	}
	t.giveUp(s, at)
	if s.fromStart && !s.spoke {
		t.counts.add(countSilent, 1)
	}
}

func (t *streams) drop(element *list.Element, at time.Duration) {
	s := t.recent.Remove(element).(*stream)
	delete(t.all, s.key)
	t.held -= s.held()
	t.end(s, at)
	s.wipe()
}

// tick looks at what has waited for too long.
func (t *streams) tick(now time.Duration) {
	for element := t.recent.Front(); element != nil; {
		s, next := element.Value.(*stream), element.Next()
		before := s.held()
		if len(s.later) > 0 && now-s.later[0].at >= gapPatience {
			t.takeLater(s, now)
		}
		if len(s.waiting) > 0 && now-s.waiting[0].whole >= answerPatience {
			t.giveUp(s, now)
		}
		t.held += s.held() - before
		quiet := now - s.touched
		if quiet >= quietPatience || (s.ended || s.finSent) && len(s.waiting) == 0 && quiet >= endedPatience {
			t.drop(element, now)
		}
		element = next
	}
}

// close ends all.
func (t *streams) close(now time.Duration) {
	for t.recent.Len() > 0 {
		t.drop(t.recent.Front(), now)
	}
}
