package proxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestTokenIsRenewedBeforeItEnds holds up the fetch of the next token until calls were answered
// with the one that is about to end.
func TestTokenIsRenewedBeforeItEnds(t *testing.T) {
	t.Parallel()
	var fetches atomic.Int32
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	endpoint := newEndpoint(t, func(r *http.Request) string {
		if r.Method == "PUT" {
			n := fetches.Add(1)
			if n > 1 {
				<-held
			}
			token := fmt.Sprintf("token-%d", n)
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 100\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(token), token)
		}
		token := r.Header.Get("X-Aws-Ec2-Metadata-Token")
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(token), token)
	})
	t.Cleanup(release) // before the endpoint waits for what it serves
	b := setup{upstream: Upstream{IPv4: netip.MustParseAddrPort(endpoint.addr), Timeout: 2 * time.Second}}.start(t)
	token := func() string {
		t.Helper()
		answer := send(t, b.addr, get("/latest/meta-data/instance-id"))
		_, body, _ := strings.Cut(answer, "\r\n\r\n")
		return body
	}
	if got := token(); got != "token-1" {
		t.Fatalf("called with %q", got)
	}
	b.proxy.tokens.age()
	for range 5 {
		if got := token(); got != "token-1" {
			t.Fatalf("while the next token is fetched, called with %q", got)
		}
	}
	waitFor(t, "the fetch", func() bool { return fetches.Load() == 2 })
	release()
	waitFor(t, "the next token", func() bool { return token() == "token-2" })
	if n := fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want one beside the calls", n)
	}
}

// age lets the token be as old as one that is to be renewed.
func (t *tokens) age() {
	t.mu.Lock()
	defer t.mu.Unlock()
	by := time.Until(t.renew)
	t.renew, t.expires = t.renew.Add(-by), t.expires.Add(-by)
}
