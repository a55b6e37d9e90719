package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestRefusals(t *testing.T) {
	t.Parallel()
	b := setup{metadata: simulator.MetadataOptions{HTTPTokens: "optional"}}.start(t)
	long := strings.Repeat("x", 20<<10)
	for _, c := range []struct{ name, raw, want string }{
		{"CONNECT", "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", "400"},
		{"absolute target", "GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", "400"},
		{"absolute target of another host", "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n", "400"},
		{"dot segments", get("/latest/meta-data/../user-data"), "400"},
		{"escaped dot segments", get("/latest/meta-data/%2e%2e/user-data"), "400"},
		{"control character", get("/latest/%0aX"), "400"},
		{"broken escape", get("/latest/%zz"), "400"},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", "400"},
		{"POST", ask("POST", "/latest/api/token", "Content-Length: 0"), "405"},
		{"DELETE", ask("DELETE", "/latest/meta-data/"), "405"},
		{"TRACE", ask("TRACE", "/"), "405"},
		{"unheard-of verb", ask("BREW", "/"), "405"},
		{"relayed", get("/latest/meta-data/", "X-Forwarded-For: 203.0.113.7"), "403"},
		{"forwarded", get("/latest/meta-data/", "Forwarded: for=203.0.113.7"), "403"},
		{"from a browser", get("/latest/meta-data/", "Origin: http://evil.example"), "403"},
		{"DNS rebinding", "GET /latest/meta-data/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", "403"},
		{"not HTTP", "\x16\x03\x01\x02\x00\r\n\r\n", "400"},
		{"line folding inside a value", "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX: a\rb\r\n\r\n", "400"},
		{"space after a header's name", "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Forwarded-For : 1.2.3.4\r\n\r\n", "400"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nHost: evil.example\r\n\r\n", "400"},
		{"fragment", get("/latest/user-data#x"), "400"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"},
		{"two lengths", ask("PUT", "/latest/api/token", "Content-Length: 1", "Content-Length: 2") + "xx", "400"},
		{"head too large", get("/latest/", "X-Long: "+long), "431"},
		{"target too large", get("/" + long), "431"},
		{"body too large", ask("PUT", "/latest/api/token", fmt.Sprintf("Content-Length: %d", len(long))) + long, "413"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := b.imds.Counts().Requests
			answer, _ := trySend(b.addr, c.raw, 3*time.Second)
			if statusOf(answer) != c.want {
				t.Errorf("answer %.200q, want %s", answer, c.want)
			}
			if !strings.Contains(answer, "Connection: close") {
				t.Errorf("the connection goes on after %.200q", answer)
			}
			if after := b.imds.Counts().Requests; after != before {
				t.Errorf("IMDS got the request")
			}
		})
	}
}

// TestRelayedLookingV2IsForIMDSToJudge forwards what only concerns the caller's own token.
func TestRelayedLookingV2IsForIMDSToJudge(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	token := b.token(t)
	raw := get("/latest/meta-data/instance-id", "X-aws-ec2-metadata-token: "+token, "X-Forwarded-For: 203.0.113.7", "Via: 1.1 x")
	if answer := send(t, b.addr, raw); statusOf(answer) != "403" || strings.Contains(answer, "imds-bridge") {
		t.Errorf("answer: %q", answer)
	}
	seen := b.imds.Requests()
	if got := seen[len(seen)-1].Header; got.Get("X-Forwarded-For") != "203.0.113.7" || got.Get("Via") != "1.1 x" {
		t.Errorf("IMDS got %v", got)
	}
}

func TestConnectionWithoutRecordIsMisdirected(t *testing.T) {
	t.Parallel()
	b := setup{metadata: simulator.MetadataOptions{HTTPTokens: "optional"}, unknown: true}.start(t)
	if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "421" {
		t.Errorf("answer: %q", answer)
	}
	if n := b.imds.Counts().Requests; n != 0 {
		t.Errorf("IMDS got %d requests", n)
	}
}

func TestUpstreamTrouble(t *testing.T) {
	t.Parallel()
	dead := listen(t)
	dead.Close()
	for name, s := range map[string]setup{
		"down":                {upstream: Upstream{IPv4: netip.MustParseAddrPort(dead.Addr().String())}},
		"never answers":       {behaviour: simulator.Behaviour{Drop: "hang"}},
		"closes":              {behaviour: simulator.Behaviour{Drop: "close"}},
		"slow":                {behaviour: simulator.Behaviour{Delay: 3 * time.Second}},
		"slow with tokens":    {behaviour: simulator.Behaviour{Delay: 3 * time.Second, Only: "token"}},
		"breaks with tokens":  {behaviour: simulator.Behaviour{Status: 500, Only: "token"}},
		"throttles tokens":    {behaviour: simulator.Behaviour{Status: 429, Only: "token"}},
		"slow with the call":  {behaviour: simulator.Behaviour{Delay: 3 * time.Second, Only: "data"}},
		"closes after tokens": {behaviour: simulator.Behaviour{Drop: "close", Only: "data"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.metadata = required
			s.upstream.Timeout = 500 * time.Millisecond // leaves room for a busy machine
			b := s.start(t)
			start := time.Now()
			answer := send(t, b.addr, get("/latest/meta-data/instance-id"))
			if statusOf(answer) != "503" {
				t.Errorf("answer %q, want 503", answer)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("answered after %s; SDKs wait for a second", took)
			}
			b.stop(t)
			if calls := b.logs.calls(t); calls[0]["error"] != "upstream_unavailable" || calls[0]["level"] != "WARN" {
				t.Errorf("log: %v", calls)
			}
		})
	}
}

// TestUpstreamErrorsPass: what IMDS answers is the answer, a 5xx too.
func TestUpstreamErrorsPass(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 403, 404, 405, 429, 500, 503} {
		b := setup{metadata: required, behaviour: simulator.Behaviour{Status: status}}.start(t)
		answer := send(t, b.addr, ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60"))
		if statusOf(answer) != fmt.Sprint(status) || !strings.Contains(answer, "EC2ws") {
			t.Errorf("answer %q, want IMDS's %d", answer, status)
		}
	}
}

// TestNoCallerStarvesAnother lets one process take all it can.
func TestNoCallerStarvesAnother(t *testing.T) {
	t.Parallel()
	limits := standardLimits
	limits.Connections, limits.ConnectionsPerCaller = 40, 10
	const flooding = 30
	var seen atomic.Uint32
	b := setup{metadata: required, limits: limits}.startWithLookup(t, func(net.Conn) (caller.Peer, error) {
		pid := seen.Add(1)
		if pid <= flooding {
			pid = 1 // the first connections are all of one process
		}
		return caller.Peer{OwnNetNS: true, Origin: caller.Origin{PID: pid}, Original: netip.MustParseAddrPort("169.254.169.254:80")}, nil
	})
	var held []net.Conn
	for range flooding {
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	waitFor(t, "the flood to be accepted", func() bool { return seen.Load() >= flooding })
	// Others, each a process of its own, are served although most slots are taken by silence.
	for range 60 {
		if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "200" {
			t.Fatalf("answer: %q", answer)
		}
	}
}

func TestOneProcessGetsItsShareAndNoMore(t *testing.T) {
	t.Parallel()
	limits := standardLimits
	limits.Connections, limits.ConnectionsPerCaller = 40, 4
	b := setup{metadata: required, limits: limits}.start(t) // every connection is of process 4242
	var held []net.Conn
	for range 4 {
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		// Half a request: the connection is accepted once the server has begun to read it.
		io.WriteString(c, "GET / HTTP/1.1\r\n")
		held = append(held, c)
	}
	waitFor(t, "four connections to be accepted", func() bool { return b.proxy.slots.len() == 4 })
	// What was sent may still lie unread when the connection ends, so that it ends with a reset.
	if answer, err := trySend(b.addr, get("/"), 3*time.Second); statusOf(answer) != "503" {
		t.Errorf("a fifth connection got %q, %v", answer, err)
	}
	held[0].Close()
	waitFor(t, "a slot", func() bool { return b.proxy.slots.len() == 3 })
	if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "200" {
		t.Errorf("after one was closed: %q", answer)
	}
}

func TestOldestIdleConnectionMakesRoom(t *testing.T) {
	t.Parallel()
	limits := standardLimits
	limits.Connections, limits.ConnectionsPerCaller = 4, 100
	b := setup{metadata: required, limits: limits}.start(t)
	var held []net.Conn
	for range 4 {
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
		waitFor(t, "the connection to be admitted", func() bool { return b.proxy.slots.len() == len(held) })
	}
	if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "200" {
		t.Fatalf("answer: %q", answer)
	}
	held[0].SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := held[0].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the oldest connection reads %v, want EOF", err)
	}
}

func TestSilentConnectionEnds(t *testing.T) {
	t.Parallel()
	limits := standardLimits
	limits.ReadTimeout = 100 * time.Millisecond
	b := setup{limits: limits}.start(t)
	for _, part := range []string{"", "GET / HT", "GET / HTTP/1.1\r\nHost:"} {
		start := time.Now()
		answer, err := trySend(b.addr, part, 3*time.Second)
		if err != nil || answer != "" && statusOf(answer) != "400" || time.Since(start) > 2*time.Second {
			t.Errorf("after %q: answer %q, %v, in %s", part, answer, err, time.Since(start))
		}
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

func (s *slots) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.order.Len()
}

// TestFaultInOneCallLeavesTheOthers makes the naming of the first caller panic.
func TestFaultInOneCallLeavesTheOthers(t *testing.T) {
	t.Parallel()
	var calls atomic.Uint32
	b := setup{metadata: required, caller: func(o caller.Origin) *caller.Caller {
		if calls.Add(1) == 1 {
			panic("fault")
		}
		return &caller.Caller{Origin: o}
	}}.start(t)
	if answer, err := trySend(b.addr, get("/"), 3*time.Second); answer != "" {
		t.Errorf("answer %q, %v", answer, err)
	}
	if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "200" {
		t.Errorf("the next call got %q", answer)
	}
	waitFor(t, "the fault to be logged", func() bool { return strings.Contains(b.logs.String(), `"panic":"fault"`) })
}

func TestDeniedHeadHasNoBody(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required, policy: policy.Policy{Mode: policy.Enforce, ContainersV1: policy.Deny}}.start(t)
	answer := send(t, b.addr, ask("HEAD", "/latest/meta-data/"))
	if _, body, _ := strings.Cut(answer, "\r\n\r\n"); statusOf(answer) != "401" || body != "" {
		t.Errorf("answer %q", answer)
	}
}

func TestInterimAnswerIsNoAnswer(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, func(*http.Request) string {
		return "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
	})
	b := setup{policy: policy.Policy{Mode: policy.Observe}, upstream: Upstream{IPv4: netip.MustParseAddrPort(e.addr)}}.start(t)
	if answer := send(t, b.addr, get("/latest/")); statusOf(answer) != "200" || !strings.HasSuffix(answer, "ok") {
		t.Errorf("answer %q", answer)
	}
}

func TestBrokenOffAnswerIsNotTakenForWhole(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	} {
		e := newEndpoint(t, func(*http.Request) string { return answer })
		b := setup{policy: policy.Policy{Mode: policy.Observe}, upstream: Upstream{IPv4: netip.MustParseAddrPort(e.addr)}}.start(t)
		answer, err := trySend(b.addr, get("/latest/"), 3*time.Second)
		if err == nil {
			t.Errorf("%s: %q ends as if it were whole", name, answer)
		}
	}
}

// TestForksShareALimit sends half a request from ever new processes of one user in one cgroup.
func TestForksShareALimit(t *testing.T) {
	t.Parallel()
	limits := standardLimits
	limits.Connections, limits.ConnectionsPerCaller = 20, 5
	var seen atomic.Uint32
	const flooding = 60
	b := setup{metadata: required, limits: limits}.startWithLookup(t, func(net.Conn) (caller.Peer, error) {
		n := seen.Add(1)
		origin := caller.Origin{PID: n, UID: 33, CgroupID: 7}
		if n > flooding {
			origin = caller.Origin{PID: n, UID: 0, CgroupID: 8}
		}
		return caller.Peer{OwnNetNS: true, Origin: origin, Original: netip.MustParseAddrPort("169.254.169.254:80")}, nil
	})
	for range flooding {
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "GET / HTTP/1.1\r\n")
	}
	waitFor(t, "the flood to be accepted", func() bool { return seen.Load() >= flooding })
	if n := b.proxy.slots.len(); n > 10 {
		t.Errorf("%d slots taken by one user's processes in one cgroup, want half of 20 at most", n)
	}
	// One more process of the flooding user's has a request to make, and a silent one makes room.
	seen.Store(0)
	if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "200" {
		t.Errorf("another process of the same user got %q", answer)
	}
	seen.Store(flooding)
	if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "200" {
		t.Errorf("another user got %q", answer)
	}
}

func TestMalformedRequestIsReportedWithItsCaller(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	send(t, b.addr, "nonsense\r\n\r\n")
	b.stop(t)
	calls := b.logs.calls(t)
	if len(calls) != 1 || calls[0]["error"] != "malformed" || calls[0]["caller"] == nil {
		t.Errorf("log: %v", calls)
	}
}
