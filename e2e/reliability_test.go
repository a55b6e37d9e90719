package e2e

import (
	"encoding/json"
	"testing"
	"time"
)

// outcome is a line of the table in docs/reliability.md. See chaos.
type outcome struct {
	Fault    string
	Times    int // that things were broken
	V1, V2   int // calls made
	FailedV1 int
	FailedV2 int
	Past     int           // calls by IMDSv1 that went straight, at whatever time
	Straight time.Duration // from the fault until new calls go straight to IMDS
	Back     time.Duration // from its end until they come to the bridge again
	Slowest  time.Duration // of the calls that did not fail
}

// unknown is a time that a fault has not: nothing goes straight, or the bridge does not come back.
const unknown = -1

func (o *outcome) count(made calls) {
	o.V1 += len(made.kind("v1"))
	o.V2 += len(made.kind("v2"))
	o.Past += len(made.that(call.straight))
	failed := made.failed()
	o.FailedV1 += len(failed.kind("v1"))
	o.FailedV2 += len(failed.kind("v2"))
	o.Slowest = max(o.Slowest, made.that(func(c call) bool { return !c.failed() }).slowest())
}

// tell hands the line to whoever reads the events of go test -json.
func (o *outcome) tell(t *testing.T) {
	t.Helper()
	line, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Attr("outcome", string(line))
}

// quietly keeps a log that is not looked at short.
var quietly = bridgeOptions{flags: []string{"--log.level=info"}}

// redirectors are those that keep what is promised here, and how each is killed.
var redirectors = []redirector{
	// The kernel takes the hook away with the process: the next call is straight.
	{name: "ebpf", kills: 100, stops: 20},
	// Rules outlive it; the guard cuts their lifeline, and the kernel within a second where that is gone too.
	{name: "iptables", kills: 10, stops: 5, untilKilled: 500 * time.Millisecond, untilRestarted: 2500 * time.Millisecond, lingers: 2 * time.Second},
}

type redirector struct {
	name           string
	kills, stops   int           // in CI
	untilKilled    time.Duration // from the start, at least
	untilRestarted time.Duration
	lingers        time.Duration // after a death, until calls go straight
}

// setting is how the bridge runs that a fault befalls.
type setting struct {
	redirector
	closed bool // fail: closed
	cuts   bool // it may end connections on which nothing was asked yet, to make room
}

// withEach runs a test with each redirector.
func withEach(t *testing.T, closed bool, test func(*testing.T, setting)) {
	t.Helper()
	with(t, redirectors, closed, test)
}

// withFirst is for a test that takes long: with the other redirectors it runs in make test-chaos alone.
func withFirst(t *testing.T, closed bool, test func(*testing.T, setting)) {
	t.Helper()
	some := redirectors
	if *rounds == 1 {
		some = some[:1]
	}
	with(t, some, closed, test)
}

// withHook is for what rules do not promise: whose a connection is takes too long to find out there.
func withHook(t *testing.T, closed bool, test func(*testing.T, setting)) {
	t.Helper()
	with(t, redirectors[:1], closed, test)
}

func with(t *testing.T, some []redirector, closed bool, test func(*testing.T, setting)) {
	t.Helper()
	for _, r := range some {
		if closed {
			r.lingers = 0 // refused is refused, by whomever
		}
		t.Run(r.name, func(t *testing.T) { test(t, setting{redirector: r, closed: closed}) })
	}
}

func (s setting) options() bridgeOptions {
	o := bridgeOptions{flags: []string{"--redirector=" + s.name, "--log.level=info"}}
	if s.closed {
		o.flags = append(o.flags, "--fail=closed")
	}
	return o
}

// times is how often something is broken: what fails closed once, for it breaks in the same way.
func (s setting) times(inCI int) int {
	if s.closed {
		return inCI
	}
	return inCI * *rounds
}

// outcome is a line of the table yet to be filled.
func (s setting) outcome(fault string, times int) outcome {
	o := outcome{Fault: fault + ", " + s.name, Times: times, Straight: unknown, Back: unknown}
	if s.closed {
		o.Fault += ", fail: closed"
	}
	return o
}

// begin starts calls and a bridge. With fail: closed there is nothing to see before it is ready.
func (s setting) begin(t *testing.T, i *instance) (b *bridge, callers *stream) {
	t.Helper()
	silentClient(t) // not while something is broken
	if s.closed {
		i.closes(t)
		b = i.startBridge(t, s.options())
	}
	callers = i.startStream(t, 4)
	if !s.closed {
		b = i.startBridge(t, s.options())
	}
	callers.awaitBridged(t, 5*time.Second)
	return b, callers
}

// away tells that a call found no bridge and met what fail promises then: it went straight, or connect()
// refused it. One by IMDSv2 may have been served half before.
func (s setting) away(c call) bool {
	if s.closed {
		return c.Refused && (c.Kind == "v2" || c.Took <= untilStraight)
	}
	return c.straight()
}

func (s setting) failed(c call) bool { return c.Error != "" && !s.away(c) && !(s.cuts && c.cut()) }

// stuck tells that a call found nobody to answer it in time, though somebody may have done so in the end.
func (s setting) stuck(c call) bool { return s.failed(c) || c.Took > untilStraight && !c.Refused }

// checkLost wants no calls to have failed but those that were under way in one of the periods, and none
// to have gone straight where that must not be.
func (s setting) checkLost(t *testing.T, made calls, but []period) {
	t.Helper()
	if lost := made.that(s.failed).beside(but); len(lost) > 0 {
		t.Errorf("failed without need: %s", lost)
	}
	if past := made.that(call.straight); s.closed && len(past) > 0 {
		t.Errorf("went straight: %s", past)
	}
}

// checkLost is that for a bridge that fails open.
func checkLost(t *testing.T, made calls, but []period) {
	t.Helper()
	setting{}.checkLost(t, made, but)
}

// patience of the requirement: from a hang until new calls go straight, and from its end until they
// come back.
const (
	untilStraight = time.Second
	untilBack     = 2 * time.Second
)

// checkHangs wants calls to go on while the bridge hangs, or to be refused, to come back to it afterwards,
// and none to fail but those of the first moment.
func (s setting) checkHangs(t *testing.T, fault string, made calls, hangs []period) {
	t.Helper()
	o := s.outcome(fault, len(hangs))
	o.count(made)
	var moments []period
	for n, h := range hangs {
		// It takes hold with the first call that it holds up: a thread that idles, or some room that is
		// left, is missed only once there is work.
		stuck, hold := made.within(h).that(s.stuck), h.from
		if len(stuck) > 0 {
			hold = stuck[0].began()
		}
		moments = append(moments, period{h.from, hold.Add(untilStraight)})
		o.Straight = max(o.Straight, stuck.until(hold))
		rest := period{h.to, time.Now()}
		if n+1 < len(hangs) {
			rest.to = hangs[n+1].from
		}
		o.Back = max(o.Back, made.within(rest).that(func(c call) bool { return s.away(c) || s.failed(c) }).until(h.to))
	}
	o.tell(t)
	s.checkLost(t, made, moments)
	if o.Straight > untilStraight {
		t.Errorf("calls that began %s after the bridge hung were held up", o.Straight)
	}
	if o.Back > untilBack {
		t.Errorf("%s after the end of the hang a call did not come to the bridge", o.Back)
	}
}

// checkAway wants calls to have found no bridge in each of the periods: what was to break did.
func (s setting) checkAway(t *testing.T, made calls, periods []period) {
	t.Helper()
	for _, p := range periods {
		if len(made.within(p).that(s.away)) == 0 {
			t.Error("each call found a bridge: nothing was broken")
		}
	}
}
