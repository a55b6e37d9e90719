package hook

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Observe exports the kernel's counters as the metric imds.connects, by outcome.
func (h *Hook) Observe(provider metric.MeterProvider) error {
	meter := provider.Meter("github.com/imds-bridge/imds-bridge/redirect")
	options := make(map[Outcome]metric.MeasurementOption, len(outcomes))
	for _, o := range outcomes {
		options[o] = metric.WithAttributeSet(attribute.NewSet(
			attribute.String("imds.outcome", string(o)),
			attribute.Bool("imds.bypass", o.Bypass()),
		))
	}
	_, err := meter.Int64ObservableCounter("imds.connects", metric.WithUnit("{connection}"),
		metric.WithDescription("What became of each connect() to IMDS, and of its record, as the kernel counted."),
		metric.WithInt64Callback(func(_ context.Context, observer metric.Int64Observer) error {
			counters, err := h.Counters()
			if err != nil {
				return err
			}
			for outcome, n := range counters {
				observer.Observe(int64(n), options[outcome])
			}
			return nil
		}))
	if err != nil {
		return fmt.Errorf("make the metric of connects: %w", err)
	}
	return nil
}
