package report

import (
	"fmt"
	"testing"

	"go.opentelemetry.io/otel/metric/noop"
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
