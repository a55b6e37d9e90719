package e2e

import (
	"bytes"
	"encoding/hex"
	"net/http"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	spanpb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestTracesReachACollector(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
	c := i.startCollector(t)
	b := i.startBridge(t, bridgeOptions{env: c.env()})
	i.bridgeToken(t)
	i.imds.ExpireTokens() // so that one trace has all there is: refused, fetched anew, answered

	const theirs = "0af7651916cd43dd8448eb211c80319c"
	call := finish(t, i.Host().Start, curl(role, "--header", "traceparent: 00-"+theirs+"-b7ad6b7169203331-01"))
	if call.err != nil {
		t.Fatalf("curl: %v, %s", call.err, call.stderr)
	}
	server, all := c.spanOf(t, call.Process.Pid)
	if server.Name != "GET "+roleRoute || len(server.ParentSpanId) != 0 {
		t.Errorf("server span %q with parent %x, want a root span named by the route", server.Name, server.ParentSpanId)
	}
	if len(server.Links) != 1 || hex.EncodeToString(server.Links[0].TraceId) != theirs || hex.EncodeToString(server.TraceId) == theirs {
		t.Errorf("trace %x with links %v, want one of its own that links to the caller's, %s", server.TraceId, server.Links, theirs)
	}
	checkAttributes(t, *server, map[string]any{
		"http.request.method": "GET", "http.route": roleRoute, "http.response.status_code": 200,
		"url.path": role, "url.scheme": "http",
		"server.address": "169.254.169.254", "server.port": 80, "network.type": "ipv4", "network.transport": "tcp",
		"process.pid": call.Process.Pid, "process.executable.name": "curl", "process.executable.path": evalSymlinks(t, call.Path),
		"process.owner": "root", "process.user.id": 0,
		"imds.version": "v1", "imds.upgraded": true, "imds.verdict": "upgrade", "imds.sensitive": true, "imds.route": roleRoute,
	})
	if got := server.resource["service.name"]; got != "imds-bridge" {
		t.Errorf("service.name is %v", got)
	}
	var names []string
	for _, s := range all {
		if s.Kind == spanpb.Span_SPAN_KIND_CLIENT && bytes.Equal(s.ParentSpanId, server.SpanId) {
			names = append(names, s.Name)
			if !bytes.Equal(s.TraceId, server.TraceId) || s.StartTimeUnixNano < server.StartTimeUnixNano || s.EndTimeUnixNano > server.EndTimeUnixNano {
				t.Errorf("span %s is not within its parent", s.Name)
			}
			checkAttributes(t, s, map[string]any{"server.address": "169.254.169.254", "server.port": 80})
		}
	}
	if want := []string{"GET " + roleRoute, "PUT /latest/api/token", "GET " + roleRoute}; !reflect.DeepEqual(names, want) {
		t.Errorf("client spans %q, want %q", names, want)
	}
	for _, r := range i.imds.Requests() {
		if r.Header.Get("Traceparent") != "" {
			t.Errorf("a trace reached IMDS: %s", r.Head)
		}
	}
	b.stop(t)
	for _, path := range []string{"/v1/logs", "/v1/metrics"} {
		if len(c.received(path)) == 0 {
			t.Errorf("nothing came to %s", path)
		}
	}
}

// With nothing redirected a call has one span, by whoever made it, and nothing that the bridge did for it.
func TestTracesOfWatchedCallsReachACollector(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	c := i.startCollector(t)
	b := i.startBridge(t, bridgeOptions{flags: []string{"--redirector=none"}, env: c.env()})
	caller := i.startHeld(t) // it lives until it is named
	if status := caller.ask(t); status != http.StatusOK {
		t.Fatalf("the caller gets %d", status)
	}
	b.calls(t, 1, pid(caller.cmd.Process.Pid))
	server, all := c.spanOf(t, caller.cmd.Process.Pid)
	const path = "/latest/meta-data/instance-id"
	if server.Name != "GET "+path || len(server.ParentSpanId) != 0 {
		t.Errorf("server span %q with parent %x, want a root span named by the route", server.Name, server.ParentSpanId)
	}
	checkAttributes(t, *server, map[string]any{
		"http.request.method": "GET", "http.route": path, "http.response.status_code": 200,
		"url.path": path, "network.type": "ipv4", "network.transport": "tcp",
		"process.pid": caller.cmd.Process.Pid, "process.executable.path": evalSymlinks(t, debianPython), "process.owner": "root",
		"imds.version": "v1", "imds.upgraded": false, "imds.verdict": "pass", "imds.reason": "watched", "imds.sensitive": false,
	})
	for _, s := range all {
		if s.Kind == spanpb.Span_SPAN_KIND_CLIENT {
			t.Errorf("a bridge that only watches has made a call: span %s", s.Name)
		}
	}
}

const roleRoute = "/latest/meta-data/iam/security-credentials/{role}"

// spanOf waits for a call's span by its caller, and returns it with all that there are.
func (c *collector) spanOf(t *testing.T, pid int) (server *span, all []span) {
	t.Helper()
	await(t, "the span of the call", 5*time.Second, func() bool {
		all = c.spans(t)
		for n := range all {
			if all[n].Kind == spanpb.Span_SPAN_KIND_SERVER && all[n].attributes["process.pid"] == pid {
				server = &all[n]
			}
		}
		return server != nil
	})
	return server, all
}

func checkAttributes(t *testing.T, s span, want map[string]any) {
	t.Helper()
	for key, value := range want {
		if got := s.attributes[key]; !reflect.DeepEqual(got, value) {
			t.Errorf("span %s: %s is %v, want %v", s.Name, key, got, value)
		}
	}
}

func evalSymlinks(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
