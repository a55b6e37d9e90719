package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/report"
)

// errNoTokens is returned when the endpoint answers, but hands out no tokens.
var errNoTokens = errors.New("no session token is to be had")

// renewAt is the part of a token's life after which the next one is fetched beside the calls.
const renewAt = 0.9

// maxToken bounds a token's length, in bytes. Real ones have 56.
const maxToken = 1024

// tokens keeps the bridge's own session token. One serves all callers: it is bound to the
// instance, not to who asks for it. It never leaves the bridge but for IMDS.
type tokens struct {
	upstream *upstream
	metrics  *metrics
	legs     func([]report.Leg) // counts those that are no call's own
	flight   singleflight.Group

	mu      sync.Mutex
	token   string
	renew   time.Time // fetch the next one from then on
	expires time.Time
}

func newTokens(u *upstream, m *metrics, legs func([]report.Leg)) *tokens {
	return &tokens{upstream: u, metrics: m, legs: legs}
}

// get returns a token that IMDS should know. However many callers wait, it is fetched once.
// Nobody waits beyond deadline.
func (t *tokens) get(deadline time.Time, call *report.Call) (string, error) {
	t.mu.Lock()
	token, now := t.token, time.Now()
	fresh, usable := now.Before(t.renew), now.Before(t.expires)
	t.mu.Unlock()
	if fresh {
		return token, nil
	}
	// By address: an IPv6 endpoint that is off must not make callers of IPv4 wait.
	peer := call.Peer // it may change while the token is fetched
	fetched := t.flight.DoChan(t.upstream.address(call).String(), func() (any, error) { return t.fetch(peer) })
	if usable {
		return token, nil // the next one is on its way
	}
	late := time.NewTimer(time.Until(deadline))
	defer late.Stop()
	select {
	case r := <-fetched:
		f := r.Val.(fetch)
		// The fetch belongs on the trace of every call that waited for it.
		call.Legs = append(call.Legs, f.legs...)
		return f.token, r.Err
	case <-late.C:
		return "", fmt.Errorf("wait for a session token: %w", os.ErrDeadlineExceeded)
	}
}

// isUsable tells whether there is one, so that get does not wait.
func (t *tokens) isUsable() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Now().Before(t.expires)
}

// pass waits for whoever is in the way of calls that ask for a token.
func (t *tokens) pass() {
	t.mu.Lock()
	defer t.mu.Unlock()
}

// reject drops a token that IMDS did not know. Another one fetched meanwhile stays.
func (t *tokens) reject(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == token {
		t.renew, t.expires = time.Time{}, time.Time{}
	}
}

type fetch struct {
	token string
	legs  []report.Leg
}

// fetch asks for a token of the longest life, on nobody's time but its own: the caller that
// happened to start it may go away.
func (t *tokens) fetch(peer caller.Peer) (f fetch, err error) {
	own := &report.Call{Peer: peer} // the address family of the call, nothing else of it
	asked := time.Now()
	defer func() {
		f.legs = own.Legs
		t.legs(own.Legs)
	}()
	answer, err := t.upstream.roundTrip(asked.Add(t.upstream.Timeout), own, request{
		method: http.MethodPut,
		target: imds.TokenPath,
		proto:  "HTTP/1.1",
		host:   imds.IPv4.String(),
		header: http.Header{
			imds.HeaderTokenTTL: {strconv.Itoa(imds.MaxTokenTTL)},
			"Content-Length":    {"0"},
		},
		own: true,
	})
	if err != nil {
		t.metrics.tokenFetched("unreachable")
		return f, fmt.Errorf("fetch a session token: %w", err)
	}
	defer answer.Body.Close()
	token, life, err := readToken(answer.Response)
	if err != nil {
		t.metrics.tokenFetched("refused")
		return f, fmt.Errorf("fetch a session token: %w", err)
	}
	t.metrics.tokenFetched("ok")
	t.keep(token, asked, life)
	f.token = token
	return f, nil
}

func readToken(resp *http.Response) (token string, life time.Duration, err error) {
	switch {
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return "", 0, fmt.Errorf("IMDS answers %d", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return "", 0, fmt.Errorf("%w: IMDS answers %d", errNoTokens, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	if err != nil {
		return "", 0, err
	}
	token = strings.TrimSpace(string(body))
	if token == "" || strings.ContainsAny(token, "\r\n") {
		return "", 0, fmt.Errorf("%w: IMDS answers 200 without one", errNoTokens)
	}
	seconds, err := strconv.Atoi(resp.Header.Get(imds.HeaderTokenTTL))
	if err != nil || seconds < imds.MinTokenTTL {
		seconds = imds.MaxTokenTTL
	}
	return token, time.Duration(seconds) * time.Second, nil
}

func (t *tokens) keep(token string, asked time.Time, life time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.token = token
	t.renew = asked.Add(time.Duration(float64(life) * renewAt))
	t.expires = asked.Add(life)
}
