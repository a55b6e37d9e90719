package client

import (
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/imds-bridge/imds-bridge/imds"
)

const (
	instanceID  = "/latest/meta-data/instance-id"
	credentials = "/latest/meta-data/iam/security-credentials/admin"
)

// calls plays a caller's calls with a clock of its own.
type calls struct {
	History
	now time.Time
}

func newCalls() *calls { return &calls{now: time.Unix(1_700_000_000, 0)} }

func (c *calls) get(kind imds.Kind, path string) {
	c.Add(Call{At: c.now, Kind: kind, Path: path, Route: imds.RouteOf(path).Pattern, Status: 200, Answered: true})
}

func (c *calls) token(status int, answered bool, took time.Duration, container bool) {
	c.Add(Call{At: c.now, Kind: imds.TokenRequest, Path: imds.TokenPath, Route: imds.TokenPath, Status: status, Answered: answered, Took: took, OtherNetwork: container})
}

func (c *calls) wait(d time.Duration) { c.now = c.now.Add(d) }

func TestHistoryIsSmall(t *testing.T) { // not parallel: it counts allocations
	if size := unsafe.Sizeof(History{}); size > 512 {
		t.Errorf("%d bytes", size)
	}
	var h History
	path := strings.Repeat("/x", 8<<10)
	h.Add(Call{At: time.Now(), Kind: imds.V1, Path: path, Route: path})
	if h.v1 != 1 || h.paths[0].route != "" {
		t.Error("a route that is none was kept")
	}
	if n := testing.AllocsPerRun(100, func() { h.Add(Call{At: time.Now(), Kind: imds.V1, Path: instanceID, Route: instanceID}) }); n > 0 {
		t.Errorf("%v allocations a call", n)
	}
}

func TestFallback(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		play func(*calls)
		want Fallback
	}{
		"nothing":            {func(c *calls) {}, NoFallback},
		"v1 alone":           {func(c *calls) { c.get(imds.V1, instanceID) }, NoFallback},
		"v2":                 {func(c *calls) { c.token(200, true, 0, false); c.get(imds.V2, instanceID) }, NoFallback},
		"no v1 yet":          {func(c *calls) { c.token(0, false, 0, true) }, NoFallback},
		"token, then v1":     {func(c *calls) { c.token(200, true, 0, false); c.get(imds.V1, instanceID) }, NoFallback},
		"v1, then a failure": {func(c *calls) { c.get(imds.V1, instanceID); c.token(0, false, 0, false) }, NoFallback},
		"hop limit":          {func(c *calls) { c.token(200, false, 0, true); c.container(instanceID) }, HopLimit},
		"no answer":          {func(c *calls) { c.token(0, false, 0, false); c.get(imds.V1, instanceID) }, SlowToken},
		"slow":               {func(c *calls) { c.token(200, true, 1200*time.Millisecond, false); c.get(imds.V1, instanceID) }, SlowToken},
		"slow in container":  {func(c *calls) { c.token(200, true, 2*time.Second, true); c.container(instanceID) }, SlowToken},
		"503":                {func(c *calls) { c.token(503, true, 900*time.Millisecond, true); c.container(instanceID) }, SlowToken},
		"403":                {func(c *calls) { c.token(403, true, 0, false); c.get(imds.V1, instanceID) }, RefusedToken},
		"404":                {func(c *calls) { c.token(404, true, 0, true); c.container(instanceID) }, RefusedToken},
		"405":                {func(c *calls) { c.token(405, true, 0, false); c.get(imds.V1, instanceID) }, RefusedToken},
		"400":                {func(c *calls) { c.token(400, true, 0, false); c.get(imds.V1, instanceID) }, RefusedToken},
		"for hours": {func(c *calls) {
			c.token(0, false, 0, false)
			for range 100 {
				c.wait(time.Hour)
				c.get(imds.V1, credentials)
			}
		}, SlowToken},
		"until it recovers": {func(c *calls) {
			c.token(0, false, 0, false)
			c.get(imds.V1, instanceID)
			c.token(200, true, 0, false)
			c.get(imds.V2, instanceID)
		}, NoFallback},
	} {
		h := newCalls()
		c.play(h)
		if got := h.Fallback(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := (*History)(nil).Fallback(); got != NoFallback {
		t.Errorf("no history: %s", got)
	}
}

// container is a v1 call from another network namespace.
func (c *calls) container(path string) {
	c.Add(Call{At: c.now, Kind: imds.V1, Path: path, Route: imds.RouteOf(path).Pattern, Status: 200, Answered: true, OtherNetwork: true})
}

func TestWaste(t *testing.T) {
	t.Parallel()
	const spot = "/latest/meta-data/spot/instance-action"
	repeat := func(n int, gap time.Duration, do func(*calls)) func(*calls) {
		return func(c *calls) {
			for range n {
				do(c)
				c.wait(gap)
			}
		}
	}
	get := func(path string) func(*calls) { return func(c *calls) { c.get(imds.V1, path) } }
	v2 := func(c *calls) { c.token(200, true, 0, false); c.get(imds.V2, instanceID) }
	for name, c := range map[string]struct {
		play func(*calls)
		want string // the findings, in one line
	}{
		"nothing":          {func(*calls) {}, ""},
		"polled":           {repeat(60, time.Second, get(instanceID)), "polled-key " + instanceID + " 60/0 in 59s"},
		"polled for a day": {repeat(86_400, time.Second, get(instanceID)), "polled-key"},
		"polled slowly":    {repeat(60, time.Minute, get(instanceID)), ""},
		"polled by v2": {func(c *calls) {
			c.token(200, true, 0, false)
			repeat(20, 10*time.Second, func(c *calls) { c.get(imds.V2, instanceID) })(c)
		}, "polled-key " + instanceID + " 20/0 in 3m10s"},
		"two keys polled": {repeat(30, time.Second, func(c *calls) { c.get(imds.V1, instanceID); c.get(imds.V1, "/latest/meta-data/mac") }),
			"polled-key " + instanceID + " 30/0 in 29s, polled-key /latest/meta-data/mac 30/0 in 29s"},
		"a burst at the start": {repeat(30, 100*time.Millisecond, get(instanceID)), ""},
		"now and then": {func(c *calls) {
			for i := range 40 {
				c.get(imds.V1, instanceID)
				c.wait([]time.Duration{100 * time.Millisecond, 40 * time.Second}[i%2])
			}
		}, ""},
		"notices, as meant":     {repeat(600, 2*time.Second, get(spot)), ""},
		"notices, far too much": {repeat(600, 100*time.Millisecond, get(spot)), "polled-key " + spot + " 600/0 in 59.9s"},
		"a poll that ended": {func(c *calls) {
			repeat(60, time.Second, get(instanceID))(c)
			repeat(5, 10*time.Minute, get(instanceID))(c)
		}, ""},
		"a poll of long ago": {func(c *calls) {
			repeat(60, time.Second, get(instanceID))(c)
			c.wait(61 * time.Minute)
			c.get(imds.V1, "/latest/meta-data/mac")
		}, ""},
		"a poll that came back": {func(c *calls) {
			repeat(60, time.Second, get(instanceID))(c)
			c.wait(2 * time.Hour)
			repeat(40, time.Second, get(instanceID))(c)
		}, "polled-key " + instanceID + " 40/0 in 39s"},
		"a poll after the start": {func(c *calls) {
			for i := range 10 {
				c.get(imds.V1, "/latest/meta-data/tags/instance/"+itoa(uint32(i)))
			}
			c.wait(10 * time.Minute)
			repeat(20, time.Second, get(instanceID))(c)
		}, "polled-key " + instanceID + " 20/0 in 19s"},
		"credentials per call": {repeat(20, 3*time.Second, get(credentials)), "credentials-per-call /latest/meta-data/iam/security-credentials/{role} 20/0 in 57s"},
		"credentials at any moment": {func(c *calls) {
			for i := range 12 {
				c.get(imds.V1, credentials)
				c.wait(time.Duration(20+i*23) * time.Second)
			}
		}, "credentials-per-call"},
		"credentials as SDKs fetch them": {repeat(24, time.Hour, get(credentials)), ""},
		"credentials near their end":     {repeat(4, time.Minute, get(credentials)), ""},
		"a token each":                   {repeat(20, 20*time.Second, v2), "token-per-request  20/20 in 6m20s, polled-key"},
		"a token each, seldom":           {repeat(20, 30*time.Minute, v2), ""},
		"a token for many": {func(c *calls) {
			c.token(200, true, 0, false)
			repeat(500, 2*time.Second, func(c *calls) { c.get(imds.V2, credentials+"x") })(c)
		}, "credentials-per-call"},
		"no token granted": {repeat(50, time.Second, func(c *calls) { c.token(0, false, 0, true); c.get(imds.V1, spot) }), ""},
		"many paths, one polled": {func(c *calls) {
			for i := range 600 {
				c.get(imds.V1, instanceID)
				c.get(imds.V1, "/latest/meta-data/tags/instance/"+string(rune('a'+i%26)))
				c.wait(time.Second)
			}
		}, "polled-key"},
	} {
		h := newCalls()
		c.play(h)
		var got []string
		for _, f := range h.Waste() {
			got = append(got, string(f.Code)+" "+f.Route+" "+itoa(f.Count)+"/"+itoa(f.Of)+" in "+f.Window.String())
			if text := f.String(); len(text) > maxAdvice || strings.Contains(text, "\n") {
				t.Errorf("%s: %q", name, text)
			}
		}
		all := strings.Join(got, ", ")
		if c.want == "" && all != "" || !strings.Contains(all, c.want) && !inOrder(all, c.want) {
			t.Errorf("%s: %q, want %q", name, all, c.want)
		}
	}
}

// inOrder tells whether the findings begin as wanted, one by one.
func inOrder(got, want string) bool {
	for _, w := range strings.Split(want, ", ") {
		i := strings.Index(got, w)
		if i < 0 {
			return false
		}
		got = got[i+len(w):]
	}
	return true
}

func itoa(n uint32) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

// Counts reach back about an hour, and keep their rate.
func TestHistoryForgets(t *testing.T) {
	t.Parallel()
	h := newCalls()
	for range 6 * 3600 {
		h.get(imds.V1, instanceID)
		h.wait(time.Second)
	}
	found := h.Waste()
	if len(found) != 1 || found[0].Window > window || found[0].Window < window/2 {
		t.Fatalf("%+v", found)
	}
	if rate := float64(found[0].Count) / found[0].Window.Seconds(); rate < 0.99 || rate > 1.01 {
		t.Errorf("%.3f reads a second", rate)
	}
}

// A clock that steps back, or calls out of order, break nothing.
func TestHistoryOutOfOrder(t *testing.T) {
	t.Parallel()
	h := newCalls()
	for i := range 1000 {
		h.now = time.Unix(1_700_000_000, 0).Add(time.Duration(i*7919%1000) * time.Second)
		h.get(imds.Kind(i%6), instanceID)
		h.token(i%600, i%3 == 0, time.Duration(i), i%2 == 0)
	}
	for _, f := range h.Waste() {
		if f.Window < 0 {
			t.Errorf("%+v", f)
		}
	}
	h.Fallback()
}
