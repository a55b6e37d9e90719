package simulator

import (
	"fmt"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/imds"
)

const (
	idPath = "/latest/meta-data/instance-id"
	idBody = "i-1234567890abcdef0"
	xff    = "X-Forwarded-For: 192.0.2.7"
)

func TestStatusOfEveryRule(t *testing.T) {
	t.Parallel()
	_, optional := start(t, Options{})
	_, required := start(t, Options{Metadata: MetadataOptions{HTTPTokens: TokensRequired}})
	_, disabled := start(t, Options{Metadata: MetadataOptions{HTTPEndpoint: Disabled}})
	valid := tokenHeader(fetchToken(t, optional))
	validRequired := tokenHeader(fetchToken(t, required))
	ttl := ttlHeader("60")

	for _, test := range []struct {
		name, address, method, target string
		headers                       []string
		status                        int
	}{
		{"v1 where optional", optional, "GET", idPath, nil, 200},
		{"v1 where required", required, "GET", idPath, nil, 401},
		{"v1 HEAD where required", required, "HEAD", idPath, nil, 401},
		{"v1 of nothing where required", required, "GET", "/latest/nothing", nil, 401},
		{"v2 where optional", optional, "GET", idPath, []string{valid}, 200},
		{"v2 where required", required, "GET", idPath, []string{validRequired}, 200},
		{"invalid token where optional is no v1 call", optional, "GET", idPath, []string{tokenHeader("nonsense")}, 401},
		{"invalid token", required, "GET", idPath, []string{tokenHeader("nonsense")}, 401},
		{"empty token", optional, "GET", idPath, []string{tokenHeader("")}, 401},
		{"token of another instance", required, "GET", idPath, []string{valid}, 401},
		{"token request with X-Forwarded-For", optional, "PUT", imds.TokenPath, []string{ttl, xff}, 403},
		{"token request with empty X-Forwarded-For", optional, "PUT", imds.TokenPath, []string{ttl, "x-forwarded-for:"}, 403},
		{"v2 with X-Forwarded-For", optional, "GET", idPath, []string{valid, xff}, 403},
		{"v1 with X-Forwarded-For", optional, "GET", idPath, []string{xff}, 200},
		{"token request under a dated version", optional, "PUT", "/2021-03-23/api/token", []string{ttl}, 403},
		{"token request with slash", optional, "PUT", "/latest/api/token/", []string{ttl}, 403},
		{"token request with double slash", optional, "PUT", "//latest/api/token", []string{ttl}, 403},
		{"GET on the token path", optional, "GET", imds.TokenPath, nil, 405},
		{"GET on the token path with token", optional, "GET", imds.TokenPath, []string{valid}, 405},
		{"GET on the token path where required", required, "GET", imds.TokenPath, nil, 405},
		{"HEAD on the token path", optional, "HEAD", imds.TokenPath, nil, 405},
		{"POST on the token path", optional, "POST", imds.TokenPath, []string{ttl}, 405},
		{"DELETE on the token path", optional, "DELETE", imds.TokenPath, nil, 405},
		{"OPTIONS on the token path", optional, "OPTIONS", imds.TokenPath, nil, 200},
		{"POST on a data path", optional, "POST", idPath, nil, 405},
		{"PUT on a data path", optional, "PUT", idPath, []string{ttl}, 405},
		{"DELETE on a data path", optional, "DELETE", idPath, []string{valid}, 405},
		{"CONNECT", optional, "CONNECT", "169.254.169.254:80", nil, 405},
		{"Expect", optional, "PUT", imds.TokenPath, []string{ttl, "Expect: 100-continue"}, 417},
		{"unknown category", optional, "GET", "/latest/meta-data/elastic-gpus", nil, 404},
		{"unknown version", optional, "GET", "/2020-02-30/meta-data/", nil, 404},
		{"below a leaf", optional, "GET", idPath + "/more", nil, 404},
		{"other spelling", optional, "GET", "/latest/meta-data/Instance-Id", nil, 404},
		{"dot segments are not resolved", optional, "GET", "/latest/user-data/../meta-data/instance-id", nil, 404},
		{"absolute target", optional, "GET", "http://169.254.169.254" + idPath, nil, 200},
		{"query", optional, "GET", idPath + "?x=1", nil, 200},
		{"escaped path", optional, "GET", "/latest/meta-data/instance%2Did", nil, 200},
		{"disabled GET", disabled, "GET", idPath, nil, 403},
		{"disabled PUT", disabled, "PUT", imds.TokenPath, []string{ttl}, 403},
		{"disabled POST", disabled, "POST", "/", nil, 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := call(t, test.address, test.method, test.target, test.headers...)
			if r.status != test.status {
				t.Fatalf("status %d, want %d", r.status, test.status)
			}
			if !r.close || r.header.Get("Server") != "EC2ws" {
				t.Errorf("headers %v", r.header)
			}
			if (r.status == 401 || r.status == 403 || r.status == 405) && r.body != "" {
				t.Errorf("body %q, want none", r.body)
			}
			if want := map[bool]string{true: "OPTIONS, PUT", false: "GET, HEAD, OPTIONS"}[test.target == imds.TokenPath]; r.status == 405 && r.header.Get("Allow") != want {
				t.Errorf("Allow %q, want %q", r.header.Get("Allow"), want)
			}
		})
	}
}

func TestPathsThatTheServiceTolerates(t *testing.T) {
	t.Parallel()
	_, address := start(t, Options{})
	for target, want := range map[string]string{
		idPath:                                 idBody,
		idPath + "/":                           idBody,
		"//latest/meta-data/instance-id":       idBody,
		"/latest//meta-data///instance-id":     idBody,
		"/1.0/meta-data/instance-id":           idBody,
		"/2024-04-11/meta-data/instance-id":    idBody,
		"/latest":                              "dynamic\nmeta-data\nuser-data",
		"/latest/":                             "dynamic\nmeta-data\nuser-data",
		"/2011-01-01/":                         "dynamic\nmeta-data\nuser-data",
		"/latest/dynamic":                      "instance-identity/",
		"/latest/meta-data/iam":                "info\nsecurity-credentials/",
		"/latest/meta-data/public-keys/":       "0=example-key",
		"/latest/meta-data/public-keys/0":      "openssh-key",
		"/latest/meta-data/public-keys/0/":     "openssh-key",
		"/latest/meta-data/security-groups":    "web\norders",
		"/latest/meta-data/ami-launch-index":   "0",
		"/latest/meta-data/network/interfaces": "macs/",
		"/latest/meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/owner-id": "123456789012",
		"/latest/meta-data/network/interfaces/macs/02%3a29:96:8f:6a:2d/mac":    "02:29:96:8f:6a:2d",
		"/latest/meta-data/iam/security-credentials":                           "example-role",
		"/latest/meta-data/events/maintenance/history":                         "[]",
	} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			r := call(t, address, "GET", target)
			if r.status != 200 || r.body != want {
				t.Errorf("status %d, body %q, want %q", r.status, r.body, want)
			}
			if got := r.header.Get("Content-Type"); got != "text/plain" {
				t.Errorf("content type %q", got)
			}
		})
	}
}

func TestRootListsTheVersions(t *testing.T) {
	t.Parallel()
	_, address := start(t, Options{})
	got := strings.Split(call(t, address, "GET", "/").body, "\n")
	if got[0] != "1.0" || got[len(got)-1] != "latest" || len(got) != 29 {
		t.Errorf("versions %q", got)
	}
	for _, version := range got {
		if r := call(t, address, "GET", "/"+version+"/meta-data/instance-id"); r.status != 200 {
			t.Errorf("version %s: status %d", version, r.status)
		}
	}
}

func TestUserDataIsBinaryAndMayBeCut(t *testing.T) {
	t.Parallel()
	_, address := start(t, Options{})
	whole := call(t, address, "GET", "/latest/user-data")
	size := len(whole.body)
	if whole.header.Get("Content-Type") != "application/octet-stream" || whole.header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("headers %v", whole.header)
	}
	if !strings.HasPrefix(whole.body, "\x1f\x8b") || strings.ToValidUTF8(whole.body, "") == whole.body {
		t.Errorf("body %q: want gzip, which is not UTF-8", whole.body)
	}
	for header, want := range map[string]struct {
		status int
		ranges string
		body   string
	}{
		"bytes=0-1":                         {206, fmt.Sprintf("bytes 0-1/%d", size), whole.body[:2]},
		"bytes=10-":                         {206, fmt.Sprintf("bytes 10-%d/%d", size-1, size), whole.body[10:]},
		"bytes=-5":                          {206, fmt.Sprintf("bytes %d-%d/%d", size-5, size-1, size), whole.body[size-5:]},
		"bytes=0-99999":                     {206, fmt.Sprintf("bytes 0-%d/%d", size-1, size), whole.body},
		"bytes=99999-":                      {416, fmt.Sprintf("bytes */%d", size), ""},
		"bytes=-0":                          {416, fmt.Sprintf("bytes */%d", size), ""},
		"bytes=5-2":                         {200, "", whole.body},
		"bytes=0-1,3-4":                     {200, "", whole.body},
		"bytes=-":                           {200, "", whole.body},
		"lines=1-2":                         {200, "", whole.body},
		"bytes=99999999999999999999999999-": {200, "", whole.body},
	} {
		r := call(t, address, "GET", "/latest/user-data", "Range: "+header)
		if r.status != want.status || r.header.Get("Content-Range") != want.ranges || r.status != 416 && r.body != want.body {
			t.Errorf("%s: status %d, range %q, %d bytes", header, r.status, r.header.Get("Content-Range"), len(r.body))
		}
	}
	if r := call(t, address, "GET", idPath, "Range: bytes=0-1"); r.status != 200 || r.body != idBody {
		t.Errorf("metadata has no ranges: status %d, body %q", r.status, r.body)
	}
}

func TestTagsAreShownOnlyWhereEnabled(t *testing.T) {
	t.Parallel()
	sim, address := start(t, Options{})
	const path = "/latest/meta-data/tags/instance/Name"
	list := func() string { return call(t, address, "GET", "/latest/meta-data/").body }
	if r := call(t, address, "GET", path); r.status != 404 || strings.Contains(list(), "tags") {
		t.Errorf("disabled: status %d, list %q", r.status, list())
	}
	if err := sim.SetMetadataOptions(MetadataOptions{InstanceMetadataTags: Enabled}); err != nil {
		t.Fatal(err)
	}
	if r := call(t, address, "GET", path); r.body != "orders-1" || !strings.Contains(list(), "\ntags/") {
		t.Errorf("enabled: body %q, list %q", r.body, list())
	}
}

func TestOldClientsAndOddRequests(t *testing.T) {
	t.Parallel()
	_, address := start(t, Options{})
	for _, test := range []struct{ name, raw, status string }{
		{"HTTP/1.0 without Host", "GET /latest/meta-data/instance-id HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK"},
		{"HTTP/1.1 without Host", "GET /latest/meta-data/instance-id HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"},
		{"bare line feeds", "GET / HTTP/1.1\nHost: x\n\n", "HTTP/1.1 200 OK"},
		{"empty line before", "\r\nGET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"},
		{"no version", "GET /\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"nonsense", "\x16\x03\x01\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"too large a head", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"body", "POST / HTTP/1.1\r\nContent-Length: 16384\r\n\r\n" + strings.Repeat("x", 16384), "HTTP/1.1 405 Not Allowed"},
		{"body without limit", "POST / HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + strings.Repeat("x", 200000), "HTTP/1.1 405 Not Allowed"},
		{"chunked body", "PUT /latest/api/token HTTP/1.1\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "HTTP/1.1 200 OK"},
		{"a second request on the connection is not answered", "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			wire := exchange(t, address, test.raw)
			if got, _, _ := strings.Cut(wire, "\r\n"); got != test.status {
				t.Errorf("%q, want %q", got, test.status)
			}
			if n := strings.Count(wire, "Server: EC2ws"); n != 1 {
				t.Errorf("%d answers", n)
			}
		})
	}
}
