package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/report"
	"github.com/imds-bridge/imds-bridge/simulator"
)

// search is a look for a caller that takes as long as a test lets it.
type search struct {
	likely caller.Peer
	begun  chan struct{}
	found  chan caller.Peer // closed: it is nobody who is served
}

var ofHost = caller.Peer{OwnNetNS: true, Original: netip.MustParseAddrPort("169.254.169.254:80")}

func newSearch(likely caller.Peer) *search {
	return &search{likely, make(chan struct{}, 100), make(chan caller.Peer, 100)}
}

func (s *search) lookup(net.Conn) (caller.Peer, func() (caller.Peer, error), error) {
	time.Sleep(20 * time.Millisecond) // the request is there
	return s.likely, func() (caller.Peer, error) {
		s.begun <- struct{}{}
		if peer, ok := <-s.found; ok {
			return peer, nil
		}
		return caller.Peer{}, errors.New("of another machine")
	}, nil
}

// process is what a search finds.
func (s *search) process(pid uint32, ambiguous bool) caller.Peer {
	p := s.likely
	p.Origin.PID, p.Origin.Started, p.Ambiguous = pid, time.Hour, ambiguous
	return p
}

type reply struct {
	answer string
	err    error
}

// ask makes a call on the side.
func (b *bridge) ask(raw string) <-chan reply {
	replies := make(chan reply, 1)
	go func() {
		answer, err := trySend(b.addr, raw, 5*time.Second)
		replies <- reply{answer, err}
	}()
	return replies
}

// warmUp has the bridge fetch its token: without one it asks for none before it is known who calls.
func (b *bridge) warmUp(t *testing.T) {
	t.Helper()
	if err := b.proxy.WarmUp(); err != nil {
		t.Fatal(err)
	}
}

// A call need not wait until it is known who calls, and its answer does.
func TestCallIsOnItsWayWhileItsCallerIsLookedFor(t *testing.T) {
	t.Parallel()
	s := newSearch(ofHost)
	b := setup{metadata: required}.startWith(t, s.lookup)
	b.warmUp(t)
	replies := b.ask(get("/latest/meta-data/instance-id"))
	waitFor(t, "IMDS to see the call", func() bool { c := b.imds.Counts(); return c.V1+c.V2 == 1 })
	select {
	case r := <-replies:
		t.Fatalf("answered before it is known who calls: %q, %v", r.answer, r.err)
	case <-time.After(50 * time.Millisecond):
	}
	s.found <- s.process(77, false)
	if r := <-replies; statusOf(r.answer) != "200" {
		t.Fatalf("answer: %q, %v", r.answer, r.err)
	}
	b.stop(t)
	calls := b.logs.calls(t)
	if len(calls) != 1 || calls[0]["caller"].(map[string]any)["pid"] != 77.0 || calls[0]["upgraded"] != true {
		t.Errorf("log: %v", calls)
	}
	if c := b.imds.Counts(); c.V1 != 0 || c.V2 != 1 {
		t.Errorf("IMDS counts %+v", c)
	}
}

// What was sent for somebody else than who calls is not answered with what that one would have got.
func TestAnswerIsNotGivenToWhoWasTakenForAnother(t *testing.T) {
	t.Parallel()
	s := newSearch(ofHost)
	b := setup{metadata: required}.startWith(t, s.lookup)
	b.warmUp(t)
	s.found <- s.process(77, true) // it may be another namespace's: no upgrade
	answer := send(t, b.addr, get("/latest/meta-data/instance-id"))
	if statusOf(answer) != "401" || strings.Contains(answer, "i-1234567890abcdef0") {
		t.Errorf("answer: %q", answer)
	}
	if c := b.imds.Counts(); c.V1 != 1 || c.V2 != 1 {
		t.Errorf("IMDS counts %+v, want the call upgraded, then as it came", c)
	}
	b.stop(t)
	calls := b.logs.calls(t)
	if len(calls) != 1 || calls[0]["verdict"] != "pass" || calls[0]["reason"] != string(policy.Uncertain) || calls[0]["upgraded"] == true {
		t.Errorf("log: %v", calls)
	}
	for _, span := range b.spans.GetSpans() {
		for _, a := range span.Attributes {
			if a.Key == "error.type" && a.Value.AsString() == report.ErrorUpstream {
				t.Errorf("%s failed: %v", span.Name, span.Attributes)
			}
		}
	}
}

// One that would have been denied, had it been known who calls, gets no answer of IMDS.
func TestAnswerIsNotGivenToWhoIsDenied(t *testing.T) {
	t.Parallel()
	likely := ofHost
	likely.OwnNetNS = false
	s := newSearch(likely)
	b := setup{policy: policy.Policy{Mode: policy.Enforce, ContainersV1: policy.Pass, ContainersTokens: policy.HopLimit}}.startWith(t, s.lookup)
	s.found <- ofHost
	answer := send(t, b.addr, get("/latest/meta-data/instance-id"))
	if statusOf(answer) != "401" || !strings.Contains(answer, "imds-bridge: ") {
		t.Errorf("answer: %q", answer)
	}
	b.stop(t)
	if calls := b.logs.calls(t); len(calls) != 1 || calls[0]["verdict"] != "deny" {
		t.Errorf("log: %v", calls)
	}
}

func TestAnswerIsNotGivenToWhoIsNotServed(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]string{
		"a call":             get("/latest/meta-data/instance-id"),
		"a token request":    ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60"),
		"one with a body":    ask("GET", "/latest/meta-data/", "Content-Length: 2") + "{}",
		"no request":         "hello\r\n\r\n",
		"a denied one":       ask("DELETE", "/latest/meta-data/"),
		"no path":            get("http://169.254.169.254/latest/"),
		"a malformed one":    get("/latest/", "a b: c"),
		"half of one":        "GET /latest/meta-data/ HTTP/1.1\r\n",
		"one that expects":   ask("PUT", "/latest/meta-data/", "Expect: 100-continue", "Content-Length: 2"),
		"nothing":            "",
		"an unlikely answer": get("/latest/meta-data/", "X-Forwarded-For: 10.0.0.1"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSearch(ofHost)
			close(s.found)
			b := setup{metadata: required}.startWith(t, s.lookup)
			answer, err := trySend(b.addr, raw, 5*time.Second)
			if statusOf(answer) != "421" || strings.Count(answer, "HTTP/1.") != 1 {
				t.Errorf("answer: %q, %v", answer, err)
			}
			b.stop(t)
			calls := b.logs.calls(t)
			if len(calls) != 1 || calls[0]["error"] != "not_recorded" || b.imds.Counts().TokenRequests > 1 {
				t.Errorf("log: %v; IMDS counts %+v", calls, b.imds.Counts())
			}
			if b.proxy.slots.len() != 0 {
				t.Error("a slot is left")
			}
		})
	}
}

// A call that could not be sent is judged, too, as what it turned out to be.
func TestCallThatIsNotSentIsJudged(t *testing.T) {
	t.Parallel()
	likely := ofHost
	likely.OwnNetNS = false
	s := newSearch(likely)
	b := setup{
		policy:   policy.Policy{Mode: policy.Enforce, ContainersV1: policy.Pass, ContainersTokens: policy.HopLimit},
		upstream: Upstream{Prepare: func(int) error { return errors.New("no socket") }},
	}.startWith(t, s.lookup)
	s.found <- ofHost
	if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "401" {
		t.Errorf("answer: %q", answer)
	}
	b.stop(t)
	if calls := b.logs.calls(t); len(calls) != 1 || calls[0]["verdict"] != "deny" {
		t.Errorf("log: %v", calls)
	}
}

// Who closes without a word is looked for as everybody is.
func TestWhoSaysNothingAndClosesIsLookedFor(t *testing.T) {
	t.Parallel()
	s := newSearch(ofHost)
	close(s.found)
	b := setup{}.startWith(t, s.lookup)
	c, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	<-s.begun
	b.stop(t)
	if calls := b.logs.calls(t); len(calls) != 1 || calls[0]["error"] != report.ErrorNotRecorded {
		t.Errorf("log: %v", calls)
	}
}

// What the metadata service's side says of a connection is told, and nothing that it did not do.
func TestFailureIsToldAsItCame(t *testing.T) {
	t.Parallel()
	l := listen(t)
	closed := addrPort(l.Addr())
	l.Close()
	s := newSearch(ofHost)
	b := setup{
		policy:   policy.Policy{Mode: policy.Observe, ContainersV1: policy.Pass, ContainersTokens: policy.HopLimit},
		upstream: Upstream{IPv4: closed},
	}.startWith(t, s.lookup)
	s.found <- ofHost
	if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "503" {
		t.Errorf("answer: %q", answer)
	}
	b.stop(t)
	if calls := b.logs.calls(t); len(calls) != 1 || !strings.Contains(calls[0]["cause"].(string), "connection refused") {
		t.Errorf("log: %v", calls)
	}
}

// A token that is renewed meanwhile is nobody's: who calls may become known while it is fetched.
func TestTokenIsRenewedWhileACallGoesAhead(t *testing.T) {
	t.Parallel()
	s := newSearch(ofHost)
	b := setup{metadata: required}.startWith(t, s.lookup)
	b.warmUp(t)
	b.proxy.tokens.age()
	for range 3 {
		s.found <- s.process(77, false)
		if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "200" {
			t.Errorf("answer: %q", answer)
		}
	}
}

// What could change something does not go ahead.
func TestWhatIsNoReadWaitsForItsCaller(t *testing.T) {
	t.Parallel()
	s := newSearch(ofHost)
	b := setup{}.startWith(t, s.lookup)
	b.ask(ask("POST", "/openstack/latest/password", "Content-Length: 0"))
	<-s.begun
	time.Sleep(50 * time.Millisecond)
	if n := b.imds.Counts().Requests; n != 0 {
		t.Errorf("IMDS saw %d requests", n)
	}
	close(s.found)
}

// A token is asked for once it is known who asks.
func TestTokenIsNotAskedForBeforeItsCallerIsKnown(t *testing.T) {
	t.Parallel()
	s := newSearch(ofHost)
	b := setup{policy: policy.Policy{Mode: policy.Observe, ContainersV1: policy.Pass, ContainersTokens: policy.HopLimit}}.startWith(t, s.lookup)
	replies := b.ask(ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60"))
	<-s.begun
	time.Sleep(50 * time.Millisecond)
	if n := b.imds.Counts().TokenRequests; n != 0 {
		t.Errorf("IMDS saw %d token requests", n)
	}
	s.found <- s.process(77, false)
	if r := <-replies; statusOf(r.answer) != "200" {
		t.Errorf("answer: %q, %v", r.answer, r.err)
	}
}

// Whose connections send nothing, or half a request, have their share at once.
func TestWhoSendsNothingIsLookedForAtOnce(t *testing.T) {
	t.Parallel()
	limits := standardLimits
	limits.ConnectionsPerCaller = 4
	s := newSearch(ofHost)
	b := setup{limits: limits}.startWith(t, s.lookup)
	for i := range 6 {
		s.found <- s.process(77, false)
		c, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 {
			io.WriteString(c, "GET /latest/ HTTP/1.1\r\n")
		}
		<-s.begun
	}
	waitFor(t, "their share", func() bool { return b.proxy.slots.len() == 4 })
	s.found <- s.process(78, false)
	if answer := send(t, b.addr, get("/")); statusOf(answer) != "200" {
		t.Errorf("another process got %q", answer)
	}
}

// Who has his share gets no more of it by calling before it is known who he is.
func TestAnswerIsNotGivenToWhoHasHisShare(t *testing.T) {
	t.Parallel()
	limits := standardLimits
	limits.ConnectionsPerCaller = 2
	const calls = maxReserved + 8
	s := newSearch(ofHost)
	b := setup{limits: limits, behaviour: simulator.Behaviour{Delay: 300 * time.Millisecond}}.startWith(t, s.lookup)
	var all []<-chan reply
	for range calls {
		all = append(all, b.ask(ask("GET", "/latest/meta-data/instance-id", "X-aws-ec2-metadata-token: "+strings.Repeat("A", 55)+"=")))
	}
	for range calls {
		<-s.begun
	}
	if n := b.proxy.slots.len(); n != maxReserved {
		t.Errorf("%d slots are reserved, want %d", n, maxReserved)
	}
	for range calls {
		s.found <- s.process(77, false)
	}
	busy := 0
	for _, replies := range all {
		if r := <-replies; statusOf(r.answer) == "503" {
			busy++
		}
	}
	b.stop(t)
	if lines := len(b.logs.calls(t)); busy != calls-2 || lines != calls-busy {
		t.Errorf("%d of %d got 503, and %d are reported", busy, calls, lines)
	}
	if b.proxy.slots.len() != 0 {
		t.Error("a slot is left")
	}
}

// Slots that are reserved are among all there are, and some of them.
func TestReservedSlotsAreBounded(t *testing.T) {
	t.Parallel()
	for total, want := range map[int]int{2: 2, 100: maxReserved} {
		s := newSlots(total, total, nil)
		var all []*connection
		for range 20 {
			c := &connection{slots: s, client: netip.MustParseAddrPort("10.0.0.1:4000")}
			if s.reserve(c) {
				all = append(all, c)
			}
		}
		if len(all) != want {
			t.Errorf("%d of %d are reserved, want %d", len(all), total, want)
		}
		for i, c := range all {
			if i%2 == 0 && !s.take(c) {
				t.Error("not taken")
			}
			s.release(c)
			s.release(c)
		}
		if s.len() != 0 || len(s.shares) != 0 {
			t.Errorf("%d slots and %v are left", s.len(), s.shares)
		}
	}
}

// A caller may give up while IMDS does not answer, and end: he is looked for before.
func TestCallerIsLookedForBeforeIMDSAnswers(t *testing.T) {
	t.Parallel()
	for name, imds := range map[string]netip.AddrPort{"it hangs": hanging(t), "it cannot be reached": unreachable(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSearch(ofHost)
			b := setup{
				policy:   policy.Policy{Mode: policy.Observe, ContainersV1: policy.Pass, ContainersTokens: policy.HopLimit},
				upstream: Upstream{IPv4: imds, Timeout: 2 * time.Second},
			}.startWith(t, s.lookup)
			replies, asked := b.ask(get("/latest/meta-data/instance-id")), time.Now()
			<-s.begun
			if took := time.Since(asked); took > time.Second {
				t.Errorf("he is looked for after %s", took)
			}
			s.found <- s.process(77, false)
			if r := <-replies; statusOf(r.answer) != "503" {
				t.Errorf("answer: %q, %v", r.answer, r.err)
			}
			b.stop(t)
			calls := b.logs.calls(t)
			if len(calls) != 1 || calls[0]["caller"].(map[string]any)["pid"] != 77.0 || calls[0]["error"] != report.ErrorUpstream {
				t.Errorf("log: %v", calls)
			}
		})
	}
}

// hanging is a metadata service that takes calls and does not answer.
func hanging(t *testing.T) netip.AddrPort {
	t.Helper()
	l := listen(t)
	t.Cleanup(func() { l.Close() })
	return addrPort(l.Addr())
}

// unreachable is one whose backlog is full: no connection to it is established.
func unreachable(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(name.(*unix.SockaddrInet4).Port))
	for {
		c, err := net.DialTimeout("tcp", at.String(), 200*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { c.Close() })
	}
}

// What others keep open is given up before a connection is.
func TestRoomIsMadeByWhatIsNotNeeded(t *testing.T) {
	t.Parallel()
	spared := 0
	s := newSlots(1, 1, func() { spared++ })
	s.makeRoom()
	if spared != 1 {
		t.Errorf("spared %d times, want once", spared)
	}
}
