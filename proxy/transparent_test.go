package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// answers are what came back on one connection, in a form that can be compared.
func parseAnswers(t *testing.T, raw string, methods ...string) (all []string) {
	t.Helper()
	reader := bufio.NewReader(strings.NewReader(raw))
	for i := 0; ; i++ {
		if _, err := reader.Peek(1); err == io.EOF {
			return all
		}
		method := methods[min(i, len(methods)-1)]
		resp, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("answer %d of %q: %v", i, raw, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("body %d of %q: %v", i, raw, err)
		}
		var headers []string
		for name, values := range resp.Header {
			if name == "Date" {
				values = []string{"(a date)"} // the two were not made in the same second
			}
			headers = append(headers, fmt.Sprintf("%s: %q", name, values))
		}
		slices.Sort(headers)
		all = append(all, fmt.Sprintf("%s %s\n%s\n\n%q", resp.Proto, resp.Status, strings.Join(headers, "\n"), body))
	}
}

// requests is every form of request that clients are known to send, and some that they should not.
var requests = []struct {
	name, raw string
	method    string
}{
	{"version list", get("/"), "GET"},
	{"directory with slash", get("/latest/meta-data/"), "GET"},
	{"directory without slash", get("/latest/meta-data"), "GET"},
	{"credentials list without slash", get("/latest/meta-data/iam/security-credentials"), "GET"},
	{"leaf", get("/latest/meta-data/instance-id"), "GET"},
	{"leaf with slash", get("/latest/meta-data/instance-id/"), "GET"},
	{"dated", get("/2021-03-23/meta-data/instance-id"), "GET"},
	{"1.0", get("/1.0/meta-data/instance-id"), "GET"},
	{"double slash in front", get("//latest/meta-data/instance-id"), "GET"},
	{"double slash within", get("/latest//meta-data/instance-id"), "GET"},
	{"query", get("/latest/meta-data/instance-id?x=y&z"), "GET"},
	{"bare question mark", get("/latest/meta-data/instance-id?"), "GET"},
	{"colon", get("/latest/meta-data/network/interfaces/macs/"), "GET"},
	{"escape", get("/latest/meta-data/instance%2Did"), "GET"},
	{"escaped slash", get("/latest%2Fmeta-data/instance-id"), "GET"},
	{"lower-case escape", get("/latest/meta-data/instance%2did"), "GET"},
	{"not found", get("/latest/meta-data/no-such-thing"), "GET"},
	{"not found at the root", get("/favicon.ico"), "GET"},
	{"head", ask("HEAD", "/latest/meta-data/instance-id"), "HEAD"},
	{"head not found", ask("HEAD", "/latest/none"), "HEAD"},
	{"range", get("/latest/user-data", "Range: bytes=0-9"), "GET"},
	{"range beyond", get("/latest/user-data", "Range: bytes=99999-"), "GET"},
	{"binary user data", get("/latest/user-data"), "GET"},
	{"if-modified-since", get("/latest/meta-data/instance-id", "If-Modified-Since: Sun, 22 Nov 2026 00:00:00 GMT"), "GET"},
	{"accept-encoding", get("/latest/meta-data/instance-id", "Accept-Encoding: gzip, deflate"), "GET"},
	{"connection close", get("/latest/meta-data/instance-id", "Connection: close"), "GET"},
	{"connection keep-alive", get("/latest/meta-data/instance-id", "Connection: keep-alive"), "GET"},
	{"http/1.0 without host", "GET /latest/meta-data/instance-id HTTP/1.0\r\n\r\n", "GET"},
	{"http/1.0 with host", "GET /latest/meta-data/instance-id HTTP/1.0\r\nHost: 169.254.169.254\r\n\r\n", "GET"},
	{"http/1.0 keep-alive", "GET /latest/meta-data/instance-id HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET"},
	{"pipelined", get("/latest/meta-data/instance-id") + get("/latest/meta-data/ami-id"), "GET"},
	{"no user agent", "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", "GET"},
	{"token request", ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 0", "Content-Length: 0"), "PUT"},
	{"token request without ttl", ask("PUT", "/latest/api/token", "Content-Length: 0"), "PUT"},
	{"token request without length", ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 99999"), "PUT"},
	{"token request, dated", ask("PUT", "/2021-03-23/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60"), "PUT"},
	{"token request, slash", ask("PUT", "/latest/api/token/", "X-aws-ec2-metadata-token-ttl-seconds: 60"), "PUT"},
	{"token request, forwarded", ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60", "X-Forwarded-For: 10.0.0.1"), "PUT"},
	{"get of the token path", get("/latest/api/token"), "GET"},
	{"wrong token", get("/latest/meta-data/instance-id", "X-aws-ec2-metadata-token: nonsense"), "GET"},
	{"empty token", get("/latest/meta-data/instance-id", "X-aws-ec2-metadata-token:"), "GET"},
	{"token and forwarded", get("/latest/meta-data/instance-id", "X-aws-ec2-metadata-token: x", "X-Forwarded-For: 10.0.0.1"), "GET"},
	{"google", get("/computeMetadata/v1/", "Metadata-Flavor: Google"), "GET"},
	{"azure", get("/metadata/instance?api-version=2021-02-01", "Metadata: true"), "GET"},
	{"oracle", get("/opc/v2/instance/", "Authorization: Bearer Oracle"), "GET"},
	{"ibm", ask("PUT", "/instance_identity/v1/token?version=2022-03-01", "Metadata-Flavor: ibm", "Content-Length: 2") + "{}", "PUT"},
}

// TestTransparent compares every answer through the bridge with the direct one, for each kind of
// backend, where the call is passed as it came.
func TestTransparent(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]setup{
		"optional":      {metadata: simulator.MetadataOptions{HTTPTokens: "optional"}, policy: watching},
		"required":      {metadata: simulator.MetadataOptions{HTTPTokens: "required"}, policy: watching},
		"older backend": {metadata: simulator.MetadataOptions{HTTPTokens: "optional"}, policy: watching, behaviour: simulator.Behaviour{OlderBackend: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := s.start(t)
			for _, r := range requests {
				direct := parseAnswers(t, send(t, b.imdsAddr, r.raw), r.method)
				bridged := parseAnswers(t, send(t, b.addr, r.raw), r.method)
				if !slices.Equal(direct, bridged) {
					t.Errorf("%s: direct answer:\n%s\n\nthrough the bridge:\n%s", r.name, strings.Join(direct, "\n---\n"), strings.Join(bridged, "\n---\n"))
				}
			}
		})
	}
}

// TestTransparentToken does the same for calls with a token of their own.
func TestTransparentToken(t *testing.T) {
	t.Parallel()
	b := setup{metadata: simulator.MetadataOptions{HTTPTokens: "required"}}.start(t)
	token := "X-aws-ec2-metadata-token: " + b.token(t)
	for _, r := range requests {
		if strings.Contains(r.raw, "-token") {
			continue
		}
		raw := strings.ReplaceAll(r.raw, "\r\n\r\n", "\r\n"+token+"\r\n\r\n")
		direct := parseAnswers(t, send(t, b.imdsAddr, raw), r.method)
		bridged := parseAnswers(t, send(t, b.addr, raw), r.method)
		if !slices.Equal(direct, bridged) {
			t.Errorf("%s: direct answer:\n%s\n\nthrough the bridge:\n%s", r.name, direct, bridged)
		}
	}
	if issued := b.imds.Counts().TokensIssued; issued != 1 {
		t.Errorf("%d tokens issued: the bridge fetched one for callers that have their own", issued)
	}
}

// TestUpgradedAnswer compares the upgraded answer of a v1 call with the one that IMDS gives to v1
// callers where it still allows them.
func TestUpgradedAnswer(t *testing.T) {
	t.Parallel()
	allowed := setup{metadata: simulator.MetadataOptions{HTTPTokens: "optional"}}.start(t)
	required := setup{metadata: simulator.MetadataOptions{HTTPTokens: "required"}}.start(t)
	for _, r := range requests {
		if strings.Contains(r.raw, "-token") || strings.Contains(r.raw, "security-credentials/") {
			continue
		}
		direct := parseAnswers(t, send(t, allowed.imdsAddr, r.raw), r.method)
		bridged := parseAnswers(t, send(t, required.addr, r.raw), r.method)
		if isOther(r.name) {
			direct = parseAnswers(t, send(t, required.imdsAddr, r.raw), r.method)
		}
		if !slices.Equal(direct, bridged) {
			t.Errorf("%s: direct answer:\n%s\n\nupgraded:\n%s", r.name, direct, bridged)
		}
	}
}

func isOther(name string) bool {
	return slices.Contains([]string{"google", "azure", "oracle", "ibm"}, name)
}
