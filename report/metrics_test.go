package report

import (
	"fmt"
	"testing"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/imds-bridge/imds-bridge/attribution"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/imds/client"
)

func TestMadeUpMethodsKeepNoLabels(t *testing.T) {
	t.Parallel()
	m, err := newMetrics(noop.NewMeterProvider())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		m.record(&Call{Method: fmt.Sprintf("VERB%d", i), Legs: []Leg{{Method: fmt.Sprintf("VERB%d", i)}}})
	}
	n := 0
	m.sets.Range(func(any, any) bool { n++; return true })
	if n != 3 {
		t.Errorf("%d sets of labels are kept for one kind of call, want 3", n)
	}
}

// Processes that each call themselves another name leave room for owners that others named.
func TestNamesThatProcessesGiveThemselvesLeaveRoom(t *testing.T) {
	t.Parallel()
	m, err := newMetrics(noop.NewMeterProvider())
	if err != nil {
		t.Fatal(err)
	}
	record := func(name, from string) {
		m.recordAttributed(&Call{}, &attribution.Attribution{
			Who: &attribution.Who{Owner: owner.Owner{Name: name, From: from}}, Client: &client.Client{},
		})
	}
	has := func(name string) bool {
		_, ok := m.owned[attributedLabels{version: (&Call{}).Kind.String(), owner: name}]
		return ok
	}
	for n := range 10 * maxAttributed {
		record(fmt.Sprint("process ", n), "env:DD_SERVICE")
	}
	if n := len(m.owned); n != maxSelfNamed+1 || !has(overflow) || !has("process 0") || has(fmt.Sprint("process ", maxSelfNamed)) {
		t.Errorf("%d series, of %d at most", n, maxSelfNamed+1)
	}
	for n := range maxAttributed - maxSelfNamed - 1 {
		record(fmt.Sprint("team ", n), "pod.label:team")
		if !has(fmt.Sprint("team ", n)) {
			t.Fatalf("the owner after %d of others is not told", n)
		}
	}
	record("one too many", "pod.label:team")
	if n := len(m.owned); n != maxAttributed || has("one too many") {
		t.Errorf("%d series, of %d at most", n, maxAttributed)
	}
}
