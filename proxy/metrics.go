package proxy

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics are the instruments of what is no call. Every label is from a closed set.
type metrics struct {
	tokens    metric.Int64Counter
	misses    metric.Int64Counter
	turnAways metric.Int64Counter
}

func newMetrics(provider metric.MeterProvider) (*metrics, error) {
	meter := provider.Meter("github.com/imds-bridge/imds-bridge/proxy")
	m := &metrics{}
	var errs [3]error
	m.tokens, errs[0] = meter.Int64Counter("imds.token.fetches", metric.WithUnit("{fetch}"),
		metric.WithDescription("Fetches of the bridge's own session token, by outcome: ok, refused, unreachable."))
	m.misses, errs[1] = meter.Int64Counter("imds.lookups.missed", metric.WithUnit("{connection}"),
		metric.WithDescription("Connections to the listener that no kernel record names; they are refused."))
	m.turnAways, errs[2] = meter.Int64Counter("imds.connections.refused", metric.WithUnit("{connection}"),
		metric.WithDescription("Connections turned away because their caller, or all callers together, had too many."))
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) tokenFetched(outcome string) {
	m.tokens.Add(context.Background(), 1, metric.WithAttributes(attribute.String("imds.outcome", outcome)))
}

func (m *metrics) missed() { m.misses.Add(context.Background(), 1) }

func (m *metrics) turnedAway() { m.turnAways.Add(context.Background(), 1) }
