package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/imds-bridge/imds-bridge/admin"
)

// status is what is known of the bridge as a whole.
type status struct {
	choice   choice
	ready    atomic.Bool
	coverage atomic.Pointer[time.Time] // from when no call is missed; nil before
}

// setReady begins the coverage: what was called before is outside of what reports may claim.
func (s *status) setReady() time.Time {
	from := time.Now().UTC()
	s.coverage.Store(&from)
	s.ready.Store(true)
	return from
}

func (s *status) notReady() { s.ready.Store(false) }

// now is what /readyz says.
func (b *bridge) now() admin.Status {
	s := admin.Status{Redirector: b.status.choice.redirector, Choice: b.status.choice.why}
	if from := b.status.coverage.Load(); from != nil {
		s.CoverageFrom = *from
	}
	switch {
	case !b.status.ready.Load():
		s.Reason = "redirection is not proven yet, or not any longer"
	case b.proxy != nil && !b.pulse.isAlive():
		s.Reason = "the proxy does not answer the bridge's own calls: workloads' calls go on without it"
	default:
		s.Ready = true
	}
	return s
}

// observe exports the choice, and from when reports may claim to know of every call.
func (s *status) observe(provider metric.MeterProvider) error {
	meter := provider.Meter("github.com/imds-bridge/imds-bridge")
	chosen := metric.WithAttributes(attribute.String("imds.redirector", s.choice.redirector))
	_, err := meter.Float64ObservableGauge("imds.coverage.start_time", metric.WithUnit("s"),
		metric.WithDescription("Unix time from which on no call is missed, by the redirector that was chosen; 0 before that."),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			var seconds float64
			if from := s.coverage.Load(); from != nil {
				seconds = float64(from.UnixMilli()) / 1000
			}
			o.Observe(seconds, chosen)
			return nil
		}))
	if err != nil {
		return fmt.Errorf("make the metric of coverage: %w", err)
	}
	return nil
}
