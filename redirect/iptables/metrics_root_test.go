//go:build root

package iptables

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func TestConnectsAreCountedByOutcome(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := newBridge(t, l, options(t, NFT))
	reader := metric.NewManualReader()
	if err := b.rules.Observe(metric.NewMeterProvider(metric.WithReader(reader))); err != nil {
		t.Fatal(err)
	}
	b.call(t, l.Host(), call{To: imds4})
	b.call(t, l.Host(), call{To: imds6})
	startCalls(t, l.Host(), call{To: listen4})
	b.next(t).Close()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int64)
	for _, point := range all.ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[int64]).DataPoints {
		name, _ := point.Attributes.Value("imds.outcome")
		got[name.AsString()] = point.Value
	}
	for name, want := range map[string]int64{"redirected": 2, "joined": 2, "direct": 1, "ambiguous": 0, "not_joined": 0, "not_permitted": 0, "outside": 0} {
		if n, ok := got[name]; !ok || n != want {
			t.Errorf("%s is %d, want %d", name, n, want)
		}
	}
}
