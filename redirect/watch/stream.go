package watch

import (
	"net/netip"
	"slices"
	"time"
)

// streamKey tells the connections of a stream apart. A TCP socket has one; a raw socket makes as
// many as it likes. Both ends are therefore zero but for raw sockets: a firewall of the sender's own
// namespace may give a packet another source than the answer's destination.
type streamKey struct {
	socket       uint64
	client, imds netip.AddrPort
}

// stream is what one connection sends to IMDS.
type stream struct {
	key          streamKey
	client, imds netip.AddrPort
	raw          bool
	who          *identity

	fromStart bool // its SYN was seen
	spoke     bool // it sent payload
	touched   time.Duration

	// synced is set when next is known: from its SYN, or from a segment that began as a request does.
	synced bool
	// certain is set when what comes must be a request: from its SYN, or from a whole request.
	certain  bool
	first    uint32 // sequence number of the SYN
	next     uint32 // of the next byte
	later    []segment
	requests requests
	waiting  []*pending // for an answer, in the order of asking
	answered bool
	answer   uint32 // sequence number of the latest
	// blind is set when it is not certain any more which request an answer belongs to.
	blind bool

	finSent, finReceived, ended bool
}

// segment waits for those before it.
type segment struct {
	at       time.Duration
	sequence uint32
	begins   bool // with a TCP segment, and not within one
	data     []byte
}

// pending is a request without its answer.
type pending struct {
	exchange   Exchange
	begun      time.Duration // when its first byte was sent
	whole      time.Duration // when the end of its head was sent
	passedOver bool          // an answer came while it waited, for one before it
}

const (
	// farAway is more than a socket may have under way: sequence numbers that differ by it are those of
	// another connection.
	farAway = 1 << 24
	// maxLater bounds the bytes that wait for those before them.
	maxLater = 128 << 10
	// maxWaiting bounds the requests of a connection that wait for their answers.
	maxWaiting = 64
)

// held is how many bytes are kept.
func (s *stream) held() int {
	return cap(s.requests.head) + s.heldLater() + s.heldWaiting()
}

func (s *stream) heldWaiting() (n int) {
	for _, w := range s.waiting {
		n += w.size()
	}
	return n
}

// size is about what a pending request keeps.
func (p *pending) size() int {
	const ofHeader = 128 // its place in the map
	n := 512 + len(p.exchange.Target) + len(p.exchange.Header)*ofHeader
	for _, values := range p.exchange.Header {
		for _, v := range values {
			n += len(v)
		}
	}
	return n
}

// repeats tells whether a packet is the SYN again that began the stream.
func (s *stream) repeats(p *packet) bool { return s.fromStart && s.first == p.Sequence && !s.ended }

// isNewAnswer tells an answer from one that is sent again, and remembers it.
func (s *stream) isNewAnswer(sequence uint32) bool {
	if s.answered && int32(sequence-s.answer) <= 0 {
		return false
	}
	s.answered, s.answer = true, sequence
	return true
}

// turn is the index of a kept segment whose turn it is, or -1.
func (s *stream) turn() int {
	return slices.IndexFunc(s.later, func(g segment) bool { return !s.synced || s.distance(g) <= 0 })
}

func (s *stream) heldLater() (n int) {
	for _, g := range s.later {
		n += len(g.data)
	}
	return n
}

// sync begins anew at a segment that looks like the beginning of a request.
func (s *stream) sync(g segment) bool {
	if !g.begins || !looksLikeRequest(g.data) {
		return false
	}
	s.synced, s.certain, s.next = true, false, g.sequence
	return true
}

// lose gives up what is begun: what comes next is not known.
func (s *stream) lose() {
	s.synced, s.certain = false, false
	s.requests.reset()
}

// wipe overwrites what is kept.
func (s *stream) wipe() {
	s.requests.wipe()
	for _, l := range s.later {
		clear(l.data)
	}
	s.later = nil
}

// keep keeps a segment until those before it have come.
func (s *stream) keep(g segment) {
	g.data = append([]byte(nil), g.data...)
	s.later = append(s.later, g)
}

// distance is how far a segment begins after the next byte; below zero, before it.
func (s *stream) distance(g segment) int64 { return int64(int32(g.sequence - s.next)) }
