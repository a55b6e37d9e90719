package proxy

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/simulator"
)

var required = simulator.MetadataOptions{HTTPTokens: "required"}

func TestV1CallIsUpgraded(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	answer := send(t, b.addr, get("/latest/meta-data/instance-id"))
	if statusOf(answer) != "200" || !strings.HasSuffix(answer, "i-1234567890abcdef0") {
		t.Fatalf("answer: %q", answer)
	}
	if strings.Contains(strings.ToLower(answer), "token") {
		t.Errorf("the answer tells of the bridge's token: %q", answer)
	}
	b.stop(t)
	calls := b.logs.calls(t)
	if len(calls) != 1 || calls[0]["version"] != "v1" || calls[0]["upgraded"] != true || calls[0]["level"] != "INFO" {
		t.Errorf("log: %v", calls)
	}
}

// TestNothingIsAdded looks at the request as IMDS got it.
func TestNothingIsAdded(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	for _, raw := range []string{
		"GET /latest//meta-data/%69nstance-id?a=%20 HTTP/1.0\r\n\r\n",
		"GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nAccept-Encoding: identity\r\nConnection: keep-alive\r\n\r\n",
	} {
		b.imds.Reset()
		send(t, b.addr, raw)
		seen := b.imds.Requests()
		got := seen[len(seen)-1]
		wantLine, _, _ := strings.Cut(raw, "\r\n")
		if line, _, _ := strings.Cut(got.Head, "\r\n"); line != wantLine {
			t.Errorf("request line %q, want %q", line, wantLine)
		}
		for name := range got.Header {
			switch {
			case name == "X-Aws-Ec2-Metadata-Token":
			case !strings.Contains(raw, name+":"):
				t.Errorf("header %s was added to %q", name, raw)
			}
		}
	}
}

func TestTokenIsFetchedOnceHoweverManyWait(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required, behaviour: simulator.Behaviour{Delay: 50 * time.Millisecond, Only: "token"}}.start(t)
	var wait sync.WaitGroup
	var failed atomic.Int32
	for range 50 {
		wait.Go(func() {
			if answer, err := trySend(b.addr, get("/latest/meta-data/instance-id"), 5*time.Second); err != nil || statusOf(answer) != "200" {
				failed.Add(1)
			}
		})
	}
	wait.Wait()
	if failed.Load() != 0 {
		t.Errorf("%d of 50 calls failed", failed.Load())
	}
	if n := b.imds.Counts().TokenRequests; n != 1 {
		t.Errorf("%d token requests for 50 callers, want 1", n)
	}
}

func TestExpiredTokenIsFetchedAnewAndTheCallRetriedOnce(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	send(t, b.addr, get("/latest/meta-data/instance-id"))
	b.imds.ExpireTokens()
	if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "200" {
		t.Fatalf("answer: %q", answer)
	}
	c := b.imds.Counts()
	if c.TokenRequests != 2 || c.V2 != 3 {
		t.Errorf("%d token requests and %d calls with a token, want 2 and 3", c.TokenRequests, c.V2)
	}
}

// TestTokenThatIsNeverGoodIsRetriedOnce is an endpoint that refuses what it handed out.
func TestTokenThatIsNeverGoodIsRetriedOnce(t *testing.T) {
	t.Parallel()
	endpoint := newEndpoint(t, func(r *http.Request) string {
		if r.Method == "PUT" {
			return "HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 60\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad"
		}
		return "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	})
	b := setup{upstream: Upstream{IPv4: netip.MustParseAddrPort(endpoint.addr)}}.start(t)
	if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "401" {
		t.Errorf("answer: %q", answer)
	}
	if n := endpoint.requests.Load(); n != 4 {
		t.Errorf("%d requests, want two fetches and two calls", n)
	}
}

// TestTokenLivesAsLongAsIMDSSays asks for two and a half lives of a token.
func TestTokenLivesAsLongAsIMDSSays(t *testing.T) {
	t.Parallel()
	var fetches atomic.Int32
	endpoint := newEndpoint(t, func(r *http.Request) string {
		if r.Method == "PUT" {
			token := fmt.Sprintf("token-%d", fetches.Add(1))
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 1\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(token), token)
		}
		return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
	})
	b := setup{upstream: Upstream{IPv4: netip.MustParseAddrPort(endpoint.addr)}}.start(t)
	for start := time.Now(); time.Since(start) < 2500*time.Millisecond; time.Sleep(20 * time.Millisecond) {
		if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); statusOf(answer) != "200" {
			t.Fatalf("answer: %q", answer)
		}
	}
	if n := fetches.Load(); n < 2 || n > 4 {
		t.Errorf("%d fetches of a token that lives for a second, in 2.5 seconds", n)
	}
}

// TestEndpointWithoutTokens passes v1 calls on as they came.
func TestEndpointWithoutTokens(t *testing.T) {
	t.Parallel()
	endpoint := newEndpoint(t, func(r *http.Request) string {
		if r.Method == "PUT" {
			return "HTTP/1.1 405 Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
		}
		return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nv1"
	})
	b := setup{upstream: Upstream{IPv4: netip.MustParseAddrPort(endpoint.addr)}}.start(t)
	if answer := send(t, b.addr, get("/latest/meta-data/instance-id")); !strings.HasSuffix(answer, "v1") {
		t.Errorf("answer: %q", answer)
	}
	b.stop(t)
	if calls := b.logs.calls(t); calls[0]["upgraded"] != false {
		t.Errorf("log: %v", calls)
	}
}

func TestCallersOwnTokenIsNeverReplaced(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required}.start(t)
	send(t, b.addr, get("/latest/meta-data/instance-id")) // the bridge has a token now
	answer := send(t, b.addr, get("/latest/meta-data/instance-id", "X-aws-ec2-metadata-token: long-expired"))
	if statusOf(answer) != "401" {
		t.Errorf("answer: %q", answer)
	}
	seen := b.imds.Requests()
	if got := seen[len(seen)-1].Header.Values("X-Aws-Ec2-Metadata-Token"); len(got) != 1 || got[0] != "long-expired" {
		t.Errorf("IMDS got the token %q", got)
	}
}

// TestEachRequestIsClassified sends v1 and v2 in turn on one connection.
func TestEachRequestIsClassified(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required, behaviour: simulator.Behaviour{KeepAlive: true}}.start(t)
	token := "X-aws-ec2-metadata-token: " + b.token(t)
	raw := get("/latest/meta-data/instance-id") +
		get("/latest/meta-data/ami-id", token) +
		ask("HEAD", "/latest/meta-data/mac") +
		ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60", "Content-Length: 0") +
		get("/computeMetadata/v1/", "Metadata-Flavor: Google") +
		get("/latest/meta-data/instance-type", "Connection: close")
	answers := parseAnswers(t, send(t, b.addr, raw), "GET", "GET", "HEAD", "PUT", "GET", "GET")
	if len(answers) != 6 {
		t.Fatalf("%d answers: %s", len(answers), answers)
	}
	b.stop(t)
	var versions []string
	for _, call := range b.logs.calls(t) {
		versions = append(versions, fmt.Sprint(call["version"], " ", call["upgraded"]))
	}
	want := "[v1 true v2 false v1 true token false not_aws false v1 true]"
	if fmt.Sprint(versions) != want {
		t.Errorf("classified as %v, want %v", versions, want)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	host, container := (*caller.Peer)(nil), &caller.Peer{}
	for _, c := range []struct {
		name   string
		policy policy.Policy
		peer   *caller.Peer
		want   string
	}{
		{"observe", policy.Policy{Mode: policy.Observe, ContainersV1: policy.Pass}, host, "401"},
		{"upgrade", policy.Policy{Mode: policy.UpgradeCalls, ContainersV1: policy.Pass}, host, "200"},
		{"enforce", policy.Policy{Mode: policy.Enforce, ContainersV1: policy.Pass}, host, "401"},
		{"container passed", policy.Policy{Mode: policy.UpgradeCalls, ContainersV1: policy.Pass}, container, "401"},
		{"container upgraded", policy.Policy{Mode: policy.Enforce, ContainersV1: policy.Upgrade}, container, "200"},
		{"container denied", policy.Policy{Mode: policy.UpgradeCalls, ContainersV1: policy.Deny}, container, "401"},
		{"uncertain container", policy.Policy{Mode: policy.UpgradeCalls, ContainersV1: policy.Upgrade}, &caller.Peer{Ambiguous: true}, "401"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := setup{metadata: required, policy: c.policy, peer: c.peer}.start(t)
			answer := send(t, b.addr, get("/latest/meta-data/instance-id"))
			if statusOf(answer) != c.want {
				t.Errorf("answer %q, want %s", answer, c.want)
			}
			local := strings.Contains(answer, "imds-bridge:")
			if denied := c.policy.Mode == policy.Enforce && c.peer == nil || c.policy.ContainersV1 == policy.Deny; local != denied {
				t.Errorf("answered by the bridge: %v, want %v", local, denied)
			}
		})
	}
}

// endpoint is an upstream that answers what a function says, and closes.
type endpoint struct {
	addr     string
	requests atomic.Int32
}

func newEndpoint(t *testing.T, answer func(*http.Request) string) *endpoint {
	t.Helper()
	e := &endpoint{}
	l := listen(t)
	e.addr = l.Addr().String()
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { e.serve(c, answer) })
		}
	})
	t.Cleanup(func() { l.Close(); wait.Wait() })
	return e
}

func (e *endpoint) serve(c net.Conn, answer func(*http.Request) string) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	r, err := readRequest(c)
	if err != nil {
		return
	}
	e.requests.Add(1)
	c.Write([]byte(answer(r)))
}
