package simulator

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

// golden is one exchange as a capture shows it, with the token and the times replaced.
type golden struct {
	name    string
	request []string
	want    []string
	body    string
}

var tokenShape = regexp.MustCompile(`[\w-]{54}==$`)

// stopped is the time at which the clock of startFrozen stands, an hour after its start.
var stopped = time.Date(2026, 1, 2, 4, 4, 5, 0, time.UTC)

func startFrozen(t *testing.T, options Options) (address string) {
	t.Helper()
	sim, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	sim.started = stopped.Add(-time.Hour)
	sim.now = func() time.Time { return stopped }
	return serve(t, sim)
}

func (g golden) check(t *testing.T, address string) {
	t.Run(g.name, func(t *testing.T) {
		t.Parallel()
		wire := exchange(t, address, strings.Join(g.request, "\r\n")+"\r\n\r\n")
		got := tokenShape.ReplaceAllString(wire, "TOKEN")
		want := strings.Join(g.want, "\r\n") + "\r\n\r\n" + g.body
		want = strings.Replace(want, "Date: TIME", "Date: Fri, 02 Jan 2026 04:04:05 GMT", 1)
		want = strings.Replace(want, "Last-Modified: TIME", "Last-Modified: Fri, 02 Jan 2026 03:04:05 GMT", 1)
		if got != want {
			t.Errorf("\n got %q\nwant %q", got, want)
		}
	})
}

const notFoundPage = `<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
         "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>404 - Not Found</title>
 </head>
 <body>
  <h1>404 - Not Found</h1>
 </body>
</html>
`

const host = "Host: 169.254.169.254"

func TestAnswersAreByteForByteThoseOfCaptures(t *testing.T) {
	t.Parallel()
	optional := startFrozen(t, Options{})
	required := startFrozen(t, Options{Metadata: MetadataOptions{HTTPTokens: TokensRequired}})
	token := tokenHeader(fetchToken(t, optional))

	for _, g := range []golden{
		{
			name:    "v1 GET (2022-02, 2023-06)",
			request: []string{"GET /latest/meta-data/placement/region HTTP/1.1", host},
			want:    []string{"HTTP/1.1 200 OK", "Content-Type: text/plain", "Accept-Ranges: none", "Last-Modified: TIME", "Content-Length: 9", "Date: TIME", "Server: EC2ws", "Connection: close"},
			body:    "eu-west-1",
		},
		{
			name:    "v2 GET (2024-06)",
			request: []string{"GET /latest/meta-data/placement/region HTTP/1.1", host, token},
			want:    []string{"HTTP/1.1 200 OK", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600", "Content-Type: text/plain", "Accept-Ranges: none", "Last-Modified: TIME", "Content-Length: 9", "Date: TIME", "Server: EC2ws", "Connection: close"},
			body:    "eu-west-1",
		},
		{
			name:    "token request (2025-07)",
			request: []string{"PUT /latest/api/token HTTP/1.1", host, "x-aws-ec2-metadata-token-ttl-seconds: 21600"},
			want:    []string{"HTTP/1.1 200 OK", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600", "Content-Length: 56", "Date: TIME", "Server: EC2ws", "Connection: close", "Content-Type: text/plain"},
			body:    "TOKEN",
		},
		{
			name:    "404 (2019-01, 2023-05)",
			request: []string{"GET /latest/meta-data/spot/instance-action HTTP/1.1", host},
			want:    []string{"HTTP/1.1 404 Not Found", "Content-Type: text/html", "Content-Length: 345", "Date: TIME", "Server: EC2ws", "Connection: close"},
			body:    notFoundPage,
		},
		{
			name:    "HEAD 404 (2019-01)",
			request: []string{"HEAD /latest/meta-data/spot/instance-action HTTP/1.1", host},
			want:    []string{"HTTP/1.1 404 Not Found", "Content-Type: text/html", "Content-Length: 345", "Date: TIME", "Server: EC2ws", "Connection: close"},
		},
		{
			name:    "HEAD 200",
			request: []string{"HEAD /latest/meta-data/placement/region HTTP/1.1", host},
			want:    []string{"HTTP/1.1 200 OK", "Content-Type: text/plain", "Accept-Ranges: none", "Last-Modified: TIME", "Content-Length: 9", "Date: TIME", "Server: EC2ws", "Connection: close"},
		},
		{
			name:    "405 on the token path (2020-04)",
			request: []string{"GET /latest/api/token HTTP/1.1", host},
			want:    []string{"HTTP/1.1 405 Not Allowed", "Allow: OPTIONS, PUT", "Content-Length: 0", "Date: TIME", "Server: EC2ws", "Connection: close", "Content-Type: text/plain"},
		},
		{
			name:    "403 for a slash after the token path (2023-01)",
			request: []string{"PUT /latest/api/token/ HTTP/1.1", host, ttlHeader("21600"), "connection: keep-alive"},
			want:    []string{"HTTP/1.1 403 Forbidden", "Content-Length: 0", "Content-Type: text/plain", "Date: TIME", "Server: EC2ws", "Connection: close"},
		},
		{
			name:    "keep-alive asked for, not given",
			request: []string{"GET /latest/meta-data/placement/region HTTP/1.1", host, "Connection: keep-alive"},
			want:    []string{"HTTP/1.1 200 OK", "Content-Type: text/plain", "Accept-Ranges: none", "Last-Modified: TIME", "Content-Length: 9", "Date: TIME", "Server: EC2ws", "Connection: close"},
			body:    "eu-west-1",
		},
	} {
		g.check(t, optional)
	}
	golden{
		name:    "401 (2021, 2025-06, 2026-09)",
		request: []string{"GET / HTTP/1.1", host},
		want:    []string{"HTTP/1.1 401 Unauthorized", "Content-Length: 0", "Date: TIME", "Server: EC2ws", "Connection: close", "Content-Type: text/plain"},
	}.check(t, required)
}

func TestOlderBackendAnswersAsInCaptures(t *testing.T) {
	t.Parallel()
	older := Behaviour{OlderBackend: true, KeepAlive: true}
	optional := startFrozen(t, Options{Behaviour: older})
	required := startFrozen(t, Options{Behaviour: older, Metadata: MetadataOptions{HTTPTokens: TokensRequired}})
	issued := fetchToken(t, optional)
	if !strings.HasPrefix(issued, "AQAA") {
		t.Errorf("token %s: want AQAA…, as older ones are", issued)
	}
	unauthorized := strings.ReplaceAll(notFoundPage, "404 - Not Found", "401 - Unauthorized")

	for _, g := range []golden{
		{
			name:    "v2 GET (2020-01)",
			request: []string{"GET /latest/meta-data/placement/region HTTP/1.1", host, tokenHeader(issued)},
			want:    []string{"HTTP/1.0 200 OK", "Accept-Ranges: bytes", "Content-Length: 9", "Content-Type: text/plain", "Date: TIME", "Last-Modified: TIME", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600", "Connection: close", "Server: EC2ws"},
			body:    "eu-west-1",
		},
		{
			name:    "directory without slash (kube2iam 119)",
			request: []string{"GET /latest/meta-data/iam/security-credentials HTTP/1.1", host},
			want:    []string{"HTTP/1.0 301 Moved Permanently", "Content-Length: 0", "Content-Type: text/plain", "Date: TIME", "Location: http://169.254.169.254/latest/meta-data/iam/security-credentials/", "Connection: close", "Server: EC2ws"},
		},
		{
			name:    "directory without slash or Host",
			request: []string{"GET /latest HTTP/1.0"},
			want:    []string{"HTTP/1.0 301 Moved Permanently", "Content-Length: 0", "Content-Type: text/plain", "Date: TIME", "Location: http://" + imds.IPv4.String() + "/latest/", "Connection: close", "Server: EC2ws"},
		},
		{
			name:    "404",
			request: []string{"GET /latest/nothing HTTP/1.1", host},
			want:    []string{"HTTP/1.0 404 Not Found", "Content-Length: 345", "Content-Type: text/html", "Date: TIME", "Connection: close", "Server: EC2ws"},
			body:    notFoundPage,
		},
	} {
		g.check(t, optional)
	}
	golden{
		name:    "401 with a page (scylladb 10490)",
		request: []string{"GET /latest/ HTTP/1.1", host},
		want:    []string{"HTTP/1.0 401 Unauthorized", "Content-Length: 351", "Content-Type: text/html", "Date: TIME", "Connection: close", "Server: EC2ws"},
		body:    unauthorized,
	}.check(t, required)
}
