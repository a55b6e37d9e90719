package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/simulator"
)

// measured makes a setup whose metrics can be read.
func (s setup) measured(t *testing.T) (setup, func() map[string]uint64) {
	t.Helper()
	reader := sdkmetric.NewManualReader()
	s.meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	return s, func() map[string]uint64 {
		var m metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &m); err != nil {
			t.Fatal(err)
		}
		return series(t, m)
	}
}

// series are counts by name and labels, as "name{label=value ...}".
func series(t *testing.T, collected metricdata.ResourceMetrics) map[string]uint64 {
	t.Helper()
	counts := map[string]uint64{}
	add := func(name string, labels attribute.Set, n uint64) {
		var texts []string
		for _, kv := range labels.ToSlice() {
			texts = append(texts, fmt.Sprintf("%s=%v", kv.Key, kv.Value.AsInterface()))
		}
		counts[name+"{"+strings.Join(texts, " ")+"}"] += n
	}
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, uint64(p.Value))
				}
			case metricdata.Histogram[float64]:
				if m.Unit != "s" {
					t.Errorf("%s is in %q", m.Name, m.Unit)
				}
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, p.Count)
				}
			default:
				t.Errorf("%s is a %T", m.Name, m.Data)
			}
		}
	}
	return counts
}

const (
	idRoute = "http.route=/latest/meta-data/instance-id"
	imdsAt  = "server.address=169.254.169.254 server.port=80"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	dead := listen(t)
	dead.Close()
	nowhere := Upstream{IPv4: netip.MustParseAddrPort(dead.Addr().String())}
	for name, c := range map[string]struct {
		setup
		want map[string]uint64
	}{
		"upgraded": {setup{metadata: required}, map[string]uint64{
			"imds.requests{http.response.status_code=200 " + idRoute + " imds.verdict=upgrade imds.version=v1}":                   1,
			"http.server.request.duration{http.request.method=GET http.response.status_code=200 " + idRoute + " url.scheme=http}": 1,
			"http.client.request.duration{http.request.method=PUT http.response.status_code=200 " + imdsAt + "}":                  1,
			"http.client.request.duration{http.request.method=GET http.response.status_code=200 " + imdsAt + "}":                  1,
			"imds.token.fetches{imds.outcome=ok}": 1,
		}},
		"denied": {setup{metadata: required, policy: policy.Policy{Mode: policy.Enforce, ContainersV1: policy.Deny}}, map[string]uint64{
			"imds.requests{http.response.status_code=401 " + idRoute + " imds.verdict=deny imds.version=v1}":                      1,
			"http.server.request.duration{http.request.method=GET http.response.status_code=401 " + idRoute + " url.scheme=http}": 1,
		}},
		"without a record": {setup{metadata: required, unknown: true}, map[string]uint64{
			"imds.lookups.missed{}": 1,
		}},
		"IMDS is down": {setup{policy: watching, upstream: nowhere}, map[string]uint64{
			"imds.requests{http.response.status_code=503 " + idRoute + " imds.verdict=pass imds.version=v1}":                      1,
			"http.server.request.duration{http.request.method=GET http.response.status_code=503 " + idRoute + " url.scheme=http}": 1,
			"http.client.request.duration{error.type=_OTHER http.request.method=GET " + imdsAt + "}":                              1,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, collect := c.measured(t)
			b := s.start(t)
			send(t, b.addr, get("/latest/meta-data/instance-id"))
			b.stop(t)
			if got := collect(); !maps.Equal(got, c.want) {
				t.Errorf("metrics:\n%s\nwant:\n%s", sorted(got), sorted(c.want))
			}
		})
	}
}

func sorted(counts map[string]uint64) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%d %s\n", counts[name], name)
	}
	return b.String()
}

func TestMetricOfAConnectionTurnedAway(t *testing.T) {
	t.Parallel()
	limits := standardLimits
	limits.ConnectionsPerCaller, limits.Connections = 1, 2
	s, collect := setup{metadata: required, limits: limits}.measured(t)
	b := s.start(t)
	dialTCP(t, b.addr)
	waitFor(t, "the connection", func() bool { return b.proxy.slots.len() == 1 })
	_, _ = trySend(b.addr, get("/"), 3*time.Second) // it may end with a reset
	if got, want := collect(), map[string]uint64{"imds.connections.refused{}": 1}; !maps.Equal(got, want) {
		t.Errorf("metrics:\n%s\nwant:\n%s", sorted(got), sorted(want))
	}
}

func TestMetricOfATokenFetch(t *testing.T) {
	t.Parallel()
	for behaviour, outcome := range map[simulator.Behaviour]string{
		{}:                             "ok",
		{Status: 403, Only: "token"}:   "refused",
		{Drop: "close", Only: "token"}: "unreachable",
	} {
		s, collect := setup{metadata: required, behaviour: behaviour}.measured(t)
		b := s.start(t)
		send(t, b.addr, get("/latest/meta-data/instance-id"))
		for name, n := range collect() {
			if strings.HasPrefix(name, "imds.token.fetches") && (name != "imds.token.fetches{imds.outcome="+outcome+"}" || n != 1) {
				t.Errorf("%d %s, want one fetch that is %s", n, name, outcome)
			}
		}
	}
}

// TestHostileRequestsMakeNoSeries sends what a caller can make up, each of it once.
func TestHostileRequestsMakeNoSeries(t *testing.T) {
	t.Parallel()
	s, collect := setup{metadata: required}.measured(t)
	b := s.start(t)
	round := func(i int) {
		for _, raw := range []string{
			ask(fmt.Sprintf("VERB%d", i), "/latest/"),
			get(fmt.Sprintf("/made/up/%d", i)),
			get(fmt.Sprintf("/latest/meta-data/made-up-%d", i)),
			get(fmt.Sprintf("/latest/meta-data/tags/instance/t%d", i)),
			get(fmt.Sprintf("/latest/meta-data/iam/security-credentials/r%d/x", i)),
			get(fmt.Sprintf("/%04d-01-01/meta-data/mac", i)),
			get(fmt.Sprintf("/latest/../%d", i)),
			get("/latest/", fmt.Sprintf("X-Forwarded-%d: x", i)),
			fmt.Sprintf("GET /latest/ HTTP/1.1\r\nHost: h%d.example\r\n\r\n", i),
			fmt.Sprintf("garbage-%d\r\n\r\n", i),
		} {
			_, _ = trySend(b.addr, raw, 3*time.Second)
		}
	}
	round(0)
	before := collect()
	for i := range 20 {
		round(i + 1)
	}
	after := collect()
	if !slices.Equal(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after))) {
		t.Errorf("series at first:\n%s\nlater:\n%s", sorted(before), sorted(after))
	}
}
