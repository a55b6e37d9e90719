package client

import (
	"hash/maphash"
	"math"
	"strings"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

// Call is one call of a caller, as History counts it.
type Call struct {
	At   time.Time
	Kind imds.Kind
	// Path is the canonical one; it is not kept. Route is [imds.Route.Pattern] of it.
	Path, Route string
	Status      int // of the answer; 0 when there was none
	// Answered: the caller got an answer. It is false for a token that the hop limit withheld.
	Answered bool
	// Took is how long the caller waited for it.
	Took time.Duration
	// OtherNetwork: it came from another network namespace than the bridge's, so from a container.
	OtherNetwork bool
}

// History is what is remembered of one caller's calls: enough to tell why a client that speaks v2
// fell back to v1, and which calls could be fewer. It has a fixed size below 512 bytes and holds no
// text of others. The zero value is ready to use. It is not safe for concurrent use.
//
// It is one process's: counts of several together would make waste of what is none.
type History struct {
	since, last  int64 // nanoseconds
	v1, v2       uint32
	tokens       uint32
	tokensOK     uint32
	v1SinceToken uint32
	lastToken    outcome
	otherNetwork bool
	paths        [8]pathCount
}

// outcome is what became of a token request.
type outcome uint8

const (
	noToken    outcome = iota // none was made
	granted                   // in time
	unanswered                // the caller waited in vain
	late                      // after slowToken, or with a 5xx: the bridge's 503 stands for no answer of IMDS
	refused                   // 403, 404 or 405: SDKs do without from there on
	failed                    // anything else
)

// pathCount is how often one path was read, and how regularly.
type pathCount struct {
	hash        uint32
	count       uint32
	first, last int64  // nanoseconds
	route       string // one of package imds; it costs nothing to keep
	gap, spread float32
}

const (
	// slowToken is how long SDKs wait for a token before they fall back to v1: 1 s, for most of them.
	slowToken = time.Second
	// window is how far back counts reach. After it they are halved together with the time that they
	// are of, which keeps the rates and forgets what was long ago.
	window = time.Hour
	// idle is after how long a path's place may be taken, and its count begins anew: reads that far
	// apart are no poll.
	idle = 5 * time.Minute
)

// seed is the same for all histories of a process, so that equal paths have equal hashes.
var seed = maphash.MakeSeed()

// Add counts one call. Calls come in the order of their times; one that is a little late does no harm.
func (h *History) Add(c Call) {
	now := c.At.UnixNano()
	if h.since == 0 {
		h.since = now
	}
	h.last = max(h.last, now)
	h.age()
	h.otherNetwork = c.OtherNetwork
	switch c.Kind {
	case imds.TokenRequest:
		h.addToken(c)
		return
	case imds.V1:
		h.v1++
		h.v1SinceToken++
	case imds.V2:
		h.v2++
	default:
		return
	}
	h.addPath(c, now)
}

func (h *History) addToken(c Call) {
	h.tokens++
	h.v1SinceToken = 0
	switch {
	case !c.Answered || c.Status == 0:
		h.lastToken = unanswered
	case c.Took >= slowToken || c.Status >= 500:
		h.lastToken = late
	case c.Status == 200:
		h.lastToken = granted
		h.tokensOK++
	case c.Status == 403 || c.Status == 404 || c.Status == 405:
		h.lastToken = refused
	default:
		h.lastToken = failed
	}
}

// age halves what is counted when it reaches back further than the window.
func (h *History) age() {
	if h.last-h.since <= int64(window) {
		return
	}
	h.since = h.last - min(h.last-h.since, int64(2*window))/2
	h.v1, h.v2, h.tokens, h.tokensOK = half(h.v1), half(h.v2), half(h.tokens), half(h.tokensOK)
}

// half keeps the last one: that there was any is not forgotten.
func half(n uint32) uint32 { return n - n/2 }

func (h *History) addPath(c Call, now int64) {
	if len(c.Route) > maxRoute {
		return // no route of package imds
	}
	hash := uint32(maphash.String(seed, c.Path[:min(len(c.Path), maxPath)]))
	free := -1
	for i := range h.paths {
		p := &h.paths[i]
		if p.count > 0 && p.hash == hash && p.route == c.Route {
			p.add(now)
			return
		}
		if p.count == 0 || free < 0 && now-p.last > int64(idle) {
			free = i
			if p.count == 0 {
				break // what follows is free too
			}
		}
	}
	if free >= 0 {
		h.paths[free] = pathCount{hash: hash, count: 1, first: now, last: now, route: c.Route}
	}
}

// Bounds of what is hashed and kept, in bytes.
const (
	maxPath  = 256
	maxRoute = 128
)

// add counts one more read. Gap and spread are running averages over about eight reads.
func (p *pathCount) add(now int64) {
	gap := float32(now-p.last) / float32(time.Second)
	if gap < 0 {
		return
	}
	if now-p.last > int64(idle) {
		*p = pathCount{hash: p.hash, count: 1, first: now, last: now, route: p.route}
		return
	}
	if p.count == 1 {
		p.gap = gap
	} else {
		p.spread += (float32(math.Abs(float64(gap-p.gap))) - p.spread) / 8
		p.gap += (gap - p.gap) / 8
	}
	p.count++
	p.last = now
	if p.last-p.first > int64(window) {
		p.first = p.last - (p.last-p.first)/2
		p.count = half(p.count)
	}
}

// mean is the time between two reads, over all that are counted.
func (p *pathCount) mean() time.Duration {
	if p.count < 2 {
		return 0
	}
	return time.Duration((p.last - p.first) / int64(p.count-1))
}

func (p *pathCount) isCredentials() bool {
	return strings.HasSuffix(p.route, "/security-credentials/{role}") || strings.HasSuffix(p.route, "/security-credentials/{identity}")
}

// HasTokens tells whether a token request was answered with a token.
func (h *History) HasTokens() bool { return h != nil && h.tokensOK > 0 }

// Fallback is why a client that speaks v2 made v1 calls.
type Fallback uint8

const (
	// NoFallback: nothing points to one.
	NoFallback Fallback = iota
	// HopLimit: a container's token request got no answer, because the answer may not travel so far.
	HopLimit
	// SlowToken: a host's token request got no answer, or too late a one.
	SlowToken
	// RefusedToken: it was answered with 403, 404 or 405, or an error.
	RefusedToken
)

var fallbackNames = [...]string{"none", "hop_limit", "slow_token", "refused_token"}

// String gives one of a closed set, fit for metric labels.
func (f Fallback) String() string { return fallbackNames[f] }

// Fallback tells whether the last token request failed and v1 calls followed. Who asks for a token
// speaks v2, whatever its User-Agent says.
func (h *History) Fallback() Fallback {
	if h == nil || h.v1SinceToken == 0 {
		return NoFallback
	}
	switch h.lastToken {
	case unanswered:
		if h.otherNetwork {
			return HopLimit
		}
		return SlowToken
	case late:
		return SlowToken
	case refused, failed:
		return RefusedToken
	}
	return NoFallback
}
