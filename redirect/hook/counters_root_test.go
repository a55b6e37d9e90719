//go:build root

package hook

import (
	"context"
	"errors"
	"maps"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Programs of many connections interrupt each other on a CPU, and none may lose another's count.
func TestEveryEventIsCountedOnce(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	standIn(t, b.Lab, imds4)
	container := addContainer(t, b, "one")
	const clients, times = 3, 300
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range 2 * clients * times {
			a := <-b.arrivals
			a.Close()
		}
	}()
	var all []*process
	for range clients {
		all = append(all,
			start(t, b.Host(), []call{{To: imds4, Times: times}}),
			start(t, container, []call{{To: imds6, Times: times}}),
			start(t, b.Host(), []call{{To: imds4, Times: times, Mark: mark}}))
	}
	for _, c := range all {
		for range times {
			c.next(t)
		}
	}
	<-ended
	const n = 2 * clients * times
	b.expectCounters(t, map[Outcome]uint64{"redirected": n, "joined": n, "closed": n, "exempt": clients * times})
}

// attachWith is Attach with maps that are not the usual ones.
func attachWith(change func(*ebpf.CollectionSpec)) func(Options) (*Hook, error) {
	return func(o Options) (_ *Hook, err error) {
		spec, err := loadHook()
		if err != nil {
			return nil, err
		}
		config, err := newConfig(o)
		if err != nil {
			return nil, err
		}
		if err := spec.Variables[hookVarSettings].Set(config); err != nil {
			return nil, err
		}
		spec.Maps[hookMapSockets].MaxEntries = o.Connections
		spec.Maps[hookMapConnections].MaxEntries = o.Connections
		change(spec)
		cgroup, err := os.Open(o.Cgroup)
		if err != nil {
			return nil, err
		}
		defer cgroup.Close()
		r := &Hook{}
		if err := spec.LoadAndAssign(&r.objects, nil); err != nil {
			return nil, err
		}
		if err := errors.Join(r.Beat(), r.attach(cgroup)); err != nil {
			return nil, errors.Join(err, r.Close())
		}
		return r, nil
	}
}

// full makes a map one that refuses what exceeds a single entry, which the usual one never does.
func full(name string) func(*ebpf.CollectionSpec) {
	return func(spec *ebpf.CollectionSpec) {
		spec.Maps[name].Type, spec.Maps[name].MaxEntries = ebpf.Hash, 1
	}
}

func TestCallerThatCannotBeRecordedGoesToIMDS(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]string{"IPv4": imds4, "IPv6": imds6} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBridgeBy(t, attachWith(full(hookMapSockets)), newLab(t))
			standIn(t, b.Lab, to)
			start(t, b.Host(), []call{{To: to, Keep: true}}).next(t)
			b.next(t)
			b.expectIMDS(t, b.Host(), call{To: to})
			b.expectCounters(t, map[Outcome]uint64{"redirected": 1, "joined": 1, "not_recorded": 1})
		})
	}
}

func TestConnectionThatCannotBeJoinedHasNoRecord(t *testing.T) {
	t.Parallel()
	b := newBridgeBy(t, attachWith(full(hookMapConnections)), newLab(t))
	first := start(t, b.Host(), []call{{To: imds4, Keep: true}})
	second := start(t, b.Host(), []call{{To: imds6, Keep: true}})
	first.next(t)
	second.next(t)
	var errs []error
	for range 2 {
		if a := b.next(t); a.err != nil {
			errs = append(errs, a.err)
		}
	}
	if len(errs) != 1 {
		t.Errorf("lookups fail with %v, want one failure", errs)
	}
	b.expectCounters(t, map[Outcome]uint64{"redirected": 2, "joined": 1, "not_joined": 1})
}

func TestCountersAreExportedByOutcome(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	standIn(t, b.Lab, imds4)
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	if err := b.hook.Observe(provider); err != nil {
		t.Fatal(err)
	}
	b.call(t, b.Host(), call{To: imds4})
	b.expectIMDS(t, b.Host(), call{To: imds4, Mark: mark})
	want := map[Outcome]uint64{"redirected": 1, "joined": 1, "closed": 1, "exempt": 1}
	b.expectCounters(t, want)

	var exported metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &exported); err != nil {
		t.Fatal(err)
	}
	got := make(map[Outcome]uint64)
	for _, scope := range exported.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != "imds.connects" {
				t.Errorf("metric %s", m.Name)
			}
			for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
				outcome, _ := p.Attributes.Value("imds.outcome")
				bypass, _ := p.Attributes.Value("imds.bypass")
				if o := Outcome(outcome.AsString()); o.Bypass() != bypass.AsBool() {
					t.Errorf("%s is exported as bypass=%t", o, bypass.AsBool())
				}
				got[Outcome(outcome.AsString())] = uint64(p.Value)
			}
		}
	}
	if len(got) != len(outcomes) {
		t.Errorf("%d outcomes are exported, there are %d", len(got), len(outcomes))
	}
	maps.DeleteFunc(got, func(_ Outcome, n uint64) bool { return n == 0 })
	if !maps.Equal(got, want) {
		t.Errorf("exported %v, want %v", got, want)
	}
}
