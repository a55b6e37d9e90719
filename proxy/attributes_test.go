package proxy

import (
	"io"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/imds-bridge/imds-bridge/caller"
)

// whole is a caller of which everything is known.
func whole(o caller.Origin) *caller.Caller {
	o.PPID, o.UID, o.GID, o.NetNS = 4000, 1000, 1001, 4026531840
	return &caller.Caller{
		Origin: o, Complete: true,
		Comm: "java", Executable: "/usr/lib/jvm/bin/java", Args: []string{"java", "-jar", "app.jar"},
		User: "app", Group: "staff", Started: time.Date(2026, 11, 22, 1, 2, 3, 4, time.FixedZone("", 3600)),
		Cgroup: "/docker/0123", ContainerID: "0123", ContainerRuntime: "docker",
		Ancestors: []caller.Process{{PID: 4000, Comm: "sh", Executable: "/bin/sh"}, {PID: 1, Comm: "init"}},
	}
}

// ofWhole are the attributes of such a caller.
var ofWhole = map[string]any{
	"process.pid":                   int64(4242),
	"process.parent_pid":            int64(4000),
	"process.user.id":               int64(1000),
	"process.owner":                 "app",
	"process.executable.path":       "/usr/lib/jvm/bin/java",
	"process.executable.name":       "java",
	"process.command_args":          []string{"java", "-jar", "app.jar"},
	"process.creation.time":         "2026-11-22T00:02:03.000000004Z",
	"process.linux.cgroup":          "/docker/0123",
	"container.id":                  "0123",
	"container.runtime.name":        "docker",
	"imds.caller.gid":               int64(1001),
	"imds.caller.comm":              "java",
	"imds.caller.complete":          true,
	"imds.caller.host_network":      true,
	"imds.caller.network_namespace": int64(4026531840),
	"imds.caller.ancestors":         "4000 sh (/bin/sh) < 1 init",
}

// TestAttributesOfTheCallersSpan compares all there are, so that none can be lost or added unseen.
func TestAttributesOfTheCallersSpan(t *testing.T) {
	t.Parallel()
	ipv6 := &caller.Peer{OwnNetNS: true, Origin: caller.Origin{PID: 4242}, Original: netip.MustParseAddrPort("[fd00:ec2::254]:80")}
	for _, c := range []struct {
		name string
		peer *caller.Peer
		raw  string
		want map[string]any
	}{
		{"upgraded", nil, get("/latest/meta-data/tags/instance/Name?x"), map[string]any{
			"http.request.method":       "GET",
			"http.route":                "/latest/meta-data/tags/instance/{key}",
			"http.response.status_code": int64(404),
			"url.path":                  "/latest/meta-data/tags/instance/Name",
			"user_agent.original":       "curl/7.88.1",
			"network.protocol.version":  "1.1",
			"network.type":              "ipv4",
			"server.address":            "169.254.169.254",
			"imds.version":              "v1",
			"imds.route":                "/latest/meta-data/tags/instance/{key}",
			"imds.verdict":              "upgrade",
			"imds.reason":               "mode",
			"imds.upgraded":             true,
			"imds.sensitive":            false,
		}},
		{"relayed, for the IPv6 endpoint", ipv6, "GET /latest/user-data HTTP/1.0\r\nVia: 1.1 x\r\n\r\n", map[string]any{
			"http.request.method":       "GET",
			"http.route":                "/latest/user-data",
			"http.response.status_code": int64(403),
			"url.path":                  "/latest/user-data",
			"network.protocol.version":  "1.0",
			"network.type":              "ipv6",
			"server.address":            "fd00:ec2::254",
			"imds.version":              "v1",
			"imds.route":                "/latest/user-data",
			"imds.verdict":              "deny",
			"imds.reason":               "relayed",
			"imds.relay_sign":           "Via",
			"imds.upgraded":             false,
			"imds.sensitive":            true,
		}},
		{"unheard-of verb", nil, ask("BREW", "/"), map[string]any{
			"http.request.method":          "_OTHER",
			"http.request.method_original": "BREW",
			"http.route":                   "/",
			"http.response.status_code":    int64(405),
			"url.path":                     "/",
			"user_agent.original":          "curl/7.88.1",
			"network.protocol.version":     "1.1",
			"network.type":                 "ipv4",
			"server.address":               "169.254.169.254",
			"imds.version":                 "other",
			"imds.route":                   "/",
			"imds.verdict":                 "deny",
			"imds.reason":                  "method",
			"imds.upgraded":                false,
			"imds.sensitive":               false,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := setup{metadata: required, peer: c.peer, caller: whole}.start(t)
			conn := dialTCP(t, b.addr)
			from := netip.MustParseAddrPort(conn.LocalAddr().String())
			io.WriteString(conn, c.raw)
			io.Copy(io.Discard, conn)
			b.stop(t)
			want := map[string]any{
				"url.scheme":           "http",
				"network.transport":    "tcp",
				"network.peer.address": from.Addr().String(),
				"network.peer.port":    int64(from.Port()),
				"server.port":          int64(80),
			}
			for _, part := range []map[string]any{ofWhole, c.want} {
				for key, value := range part {
					want[key] = value
				}
			}
			spans := b.spans.GetSpans()
			server := spans[len(spans)-1]
			if server.SpanKind != trace.SpanKindServer {
				t.Fatalf("the last span is %q", server.Name)
			}
			got := attributesOf(server)
			for key := range got {
				if _, ok := want[key]; !ok {
					t.Errorf("%s = %v was added", key, got[key])
				}
			}
			for key := range want {
				if !reflect.DeepEqual(got[key], want[key]) {
					t.Errorf("%s = %#v, want %#v", key, got[key], want[key])
				}
			}
		})
	}
}
