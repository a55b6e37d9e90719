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
	{name: "iptables", kills: 3, stops: 5, untilKilled: 500 * time.Millisecond, untilRestarted: 3 * time.Second, lingers: 2 * time.Second},
}

type redirector struct {
	name           string
	kills, stops   int           // in CI
	untilKilled    time.Duration // from the start, at least
	untilRestarted time.Duration
	lingers        time.Duration // after a death, until calls go straight
}

func (r redirector) options() bridgeOptions {
	return bridgeOptions{flags: []string{"--redirector=" + r.name, "--log.level=info"}}
}

// checkLost wants no calls to have failed but those that were under way in one of the periods.
func checkLost(t *testing.T, made calls, but []period) {
	t.Helper()
	if lost := made.failed().beside(but); len(lost) > 0 {
		t.Errorf("failed without need: %s", lost)
	}
}

// patience of the requirement: from a hang until new calls go straight, and from its end until they
// come back.
const (
	untilStraight = time.Second
	untilBack     = 2 * time.Second
)

// checkHangs wants calls to be answered while the bridge hangs, to come back to it afterwards, and none to
// fail but those of the first moment.
func checkHangs(t *testing.T, o outcome, made calls, hangs []period) {
	t.Helper()
	o.Times += len(hangs)
	o.count(made)
	var moments []period
	for n, h := range hangs {
		moments = append(moments, period{h.from, h.from.Add(untilStraight)})
		o.Straight = max(o.Straight, made.within(h).that(call.stuck).until(h.from))
		rest := period{h.to, time.Now()}
		if n+1 < len(hangs) {
			rest.to = hangs[n+1].from
		}
		o.Back = max(o.Back, made.kind("v1").within(rest).that(func(c call) bool { return !c.bridged() }).until(h.to))
	}
	o.tell(t)
	checkLost(t, made, moments)
	if o.Straight > untilStraight {
		t.Errorf("calls that began %s after the bridge hung were held up", o.Straight)
	}
	if o.Back > untilBack {
		t.Errorf("%s after the end of the hang a call did not come to the bridge", o.Back)
	}
}

// checkStraight wants calls to have gone straight to IMDS in each of the periods: what was to break did.
func checkStraight(t *testing.T, made calls, periods []period) {
	t.Helper()
	for _, p := range periods {
		if len(made.within(p).that(call.straight)) == 0 {
			t.Error("no call went straight: nothing was broken")
		}
	}
}
