package simulator

import (
	"net/http"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

func TestTokenLifetimeBounds(t *testing.T) {
	t.Parallel()
	_, address := start(t, Options{})
	for value, want := range map[string]int{
		"1":                     200,
		"60":                    200,
		"21600":                 200,
		"0060":                  200,
		" 60 ":                  200, // surrounding space is no part of a header's value
		"0":                     400,
		"21601":                 400,
		"-1":                    400,
		"+60":                   400,
		"":                      400,
		"six":                   400,
		"60s":                   400,
		"6 0":                   400,
		"1.5":                   400,
		"1e3":                   400,
		"0x10":                  400,
		"9223372036854775808":   400,
		"99999999999999999999":  400,
		"-99999999999999999999": 400,
	} {
		r := call(t, address, "PUT", imds.TokenPath, ttlHeader(value))
		if r.status != want {
			t.Errorf("%q: status %d, want %d", value, r.status, want)
		}
		if want == 400 && (r.body != "" || r.header.Get(imds.HeaderTokenTTL) != "") {
			t.Errorf("%q: %+v", value, r)
		}
	}
	if r := call(t, address, "PUT", imds.TokenPath); r.status != 400 {
		t.Errorf("no header: status %d", r.status)
	}
	if r := call(t, address, "PUT", imds.TokenPath, "x-AWS-ec2-METADATA-token-ttl-SECONDS: 7"); r.header.Get(imds.HeaderTokenTTL) != "7" {
		t.Errorf("header name in other letters: %+v", r)
	}
}

func TestTokenShape(t *testing.T) {
	t.Parallel()
	_, address := start(t, Options{})
	shape := regexp.MustCompile(`^AQAEA[A-Za-z0-9_-]{49}==$`)
	first, second := fetchToken(t, address), fetchToken(t, address)
	if !shape.MatchString(first) || first == second {
		t.Errorf("tokens %q, %q", first, second)
	}
}

func TestTokenSaysWhatItHasLeftAndEnds(t *testing.T) {
	t.Parallel()
	sim, err := New(Options{Metadata: MetadataOptions{HTTPTokens: TokensRequired}})
	if err != nil {
		t.Fatal(err)
	}
	var elapsed atomic.Int64
	begin := time.Now()
	sim.now = func() time.Time { return begin.Add(time.Duration(elapsed.Load())) }
	address := serve(t, sim)

	token := tokenHeader(call(t, address, "PUT", imds.TokenPath, ttlHeader("60")).body)
	for _, step := range []struct {
		after  time.Duration
		status int
		left   string
	}{
		{0, 200, "60"},
		{400 * time.Millisecond, 200, "60"},
		{17 * time.Second, 200, "43"},
		{59900 * time.Millisecond, 200, "1"},
		{60 * time.Second, 401, ""},
		{7 * time.Hour, 401, ""},
	} {
		elapsed.Store(int64(step.after))
		r := call(t, address, "GET", idPath, token)
		if r.status != step.status || r.header.Get(imds.HeaderTokenTTL) != step.left {
			t.Errorf("after %s: status %d, left %q; want %d, %q", step.after, r.status, r.header.Get(imds.HeaderTokenTTL), step.status, step.left)
		}
	}
}

func TestRemainingTimeIsTold(t *testing.T) {
	t.Parallel()
	_, address := start(t, Options{})
	token := tokenHeader(fetchToken(t, address))
	if r := call(t, address, "GET", "/latest/nothing", token); r.status != 404 || r.header.Get(imds.HeaderTokenTTL) == "" {
		t.Errorf("404 with token: %+v", r)
	}
	for _, headers := range [][]string{nil, {tokenHeader("nonsense")}} {
		if r := call(t, address, "GET", idPath, headers...); r.header.Values(imds.HeaderTokenTTL) != nil {
			t.Errorf("with %q: %+v", headers, r)
		}
	}
}

func TestExpireTokens(t *testing.T) {
	t.Parallel()
	sim, address := start(t, Options{})
	old := tokenHeader(fetchToken(t, address))
	sim.ExpireTokens()
	if r := call(t, address, "GET", idPath, old); r.status != http.StatusUnauthorized {
		t.Errorf("old token: status %d", r.status)
	}
	if r := call(t, address, "GET", idPath, tokenHeader(fetchToken(t, address))); r.status != http.StatusOK {
		t.Errorf("new token: status %d", r.status)
	}
}

func TestForgedTokens(t *testing.T) {
	t.Parallel()
	tokens := newTokens()
	now := time.Now()
	token := tokens.issue(now, 60, tokenPrefix)
	if left := tokens.remaining(now, token); left != 60 {
		t.Fatalf("remaining %d", left)
	}
	for i := range token[:54] { // the last character before "==" has bits that mean nothing
		other := byte('A')
		if token[i] == other {
			other = 'B'
		}
		forged := token[:i] + string(other) + token[i+1:]
		if left := tokens.remaining(now, forged); left != 0 && i < 53 {
			t.Errorf("character %d changed: remaining %s", i, strconv.Itoa(left))
		}
	}
	for _, forged := range []string{"", "==", token[:55], token + "A", token + token} {
		if left := tokens.remaining(now, forged); left != 0 {
			t.Errorf("%q: remaining %d", forged, left)
		}
	}
}
