package watch

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/imds"
)

const secret = "AQAEsecret-of-somebody=="

func TestSecretsAreNotTold(t *testing.T) {
	t.Parallel()
	tape := newTape()
	l := tape.dial(1)
	text := get("/latest/user-data",
		"x-aws-EC2-metadata-token: "+secret,
		"X-aws-ec2-metadata-token: "+secret+"2",
		"X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600",
		"Authorization: Bearer "+secret,
		"Cookie: a="+secret+";\r\n\tb="+secret,
		"X-Api-Key: "+secret,
		"X-Forwarded-For: 10.1.2.3",
		"User-Agent: curl/8",
	)
	buffer := []byte(text)
	p := l.packet(watchDirectionDIRECTION_SENT, l.next, flagACK, "")
	for i := range buffer {
		p.data, p.Payload, p.Length = buffer[i:i+1], 1, 1
		p.Sequence = l.next + uint32(i)
		s := tape.recent.Back().Value.(*stream)
		before := s.requests.head
		tape.add(p)
		if after := s.requests.head; len(before) > 0 && (len(after) == 0 || &before[0] != &after[0]) {
			if strings.Trim(string(before), "\x00") != "" {
				t.Fatalf("a buffer that was given up still holds %q", before)
			}
		}
	}
	l.answer(200)
	if len(tape.told) != 1 {
		t.Fatalf("%d told", len(tape.told))
	}
	x := tape.told[0]
	if all := fmt.Sprintf("%+v", x); strings.Contains(all, "secret") || strings.Contains(all, "10.1.2.3") {
		t.Errorf("told %s", all)
	}
	want := http.Header{
		imds.HeaderToken:    {Redacted, Redacted},
		imds.HeaderTokenTTL: {"21600"},
		"Authorization":     {Redacted},
		"Cookie":            {Redacted},
		"X-Api-Key":         {Redacted},
		"X-Forwarded-For":   {Redacted},
		"User-Agent":        {"curl/8"},
	}
	if fmt.Sprint(x.Header) != fmt.Sprint(want) {
		t.Errorf("header %v, want %v", x.Header, want)
	}
	path, err := imds.Canonical(x.Target)
	if kind := imds.Classify(x.Method, path, x.Header); kind != imds.V2 || err != nil {
		t.Errorf("kind %s, %v", kind, err)
	}
	if sign := imds.RelaySign(x.Host, x.Header); sign == "" {
		t.Error("no sign of a relay")
	}
}

// A spelling that this parser does not take for a token's must not give it away either.
func TestSecretsInOddSpellingsAreNotTold(t *testing.T) {
	t.Parallel()
	for _, header := range []string{
		"X-aws-ec2-metadata-token:" + secret,
		"X-aws-ec2-metadata-token :" + secret,
		" X-aws-ec2-metadata-token: " + secret,
		"X-aws-ec2-metadata-token\t: " + secret,
		"Host : " + secret,
		"X\x00Token: " + secret,
		"Accept:\r\nX-aws-ec2-metadata-token: " + secret,
		"no colon " + secret,
		":" + secret,
		"Authorization: Bearer Oracle " + secret,
		"Authorization: Bearer Oracle\r\n " + secret,
		"User_Agent: " + secret,
	} {
		b := []byte("GET / HTTP/1.1\r\n" + header + "\r\nHost: h\r\n\r\n")
		size := len(b)
		h, err := parseHead(b)
		if strings.Contains(string(b), "secret") || len(b) != size {
			t.Errorf("%q: not overwritten: %q", header, b)
		}
		if all := fmt.Sprintf("%+v %v", h, err); strings.Contains(all, "secret") {
			t.Errorf("%q: told %s", header, all)
		}
	}
}

func TestOraclesSignIsNoSecret(t *testing.T) {
	t.Parallel()
	h, err := parseHead([]byte("GET /opc/v2/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer Oracle\r\nMetadata-Flavor: Google\r\n\r\n"))
	if err != nil || h.header.Get("Authorization") != "Bearer Oracle" || h.header.Get("Metadata-Flavor") != "Google" {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestParseStatus(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"HTTP/1.1 200 OK\r": 200, "HTTP/1.0 404": 404, "HTTP/1.1 20": 0, "HTTP/1.1  200": 0, "": 0,
		"HTTP": 0, "HTTP/1.1 2x0 OK": 0, "ICY 200 OK": 0,
	} {
		if got := parseStatus([]byte(text)); got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
}

func TestLooksLikeRequest(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"GET / HTTP/1.1\r\n": true, "PUT /latest/api/token HTTP/1.1": true, "OPTIONS * HTTP/1.1": true,
		"GET http://169.254.169.254/ HTTP/1.0": true, "GET /": true,
		"": false, "GET": false, "GET ": false, "get / HTTP/1.1": false, "XX / HTTP": false,
		"HTTP/1.1 200 OK": false, "Host: x": false, " / ": false, "{\"a\": 1}": false,
	} {
		if got := looksLikeRequest([]byte(text)); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}
