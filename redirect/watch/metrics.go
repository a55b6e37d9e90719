package watch

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// series is one metric: what is counted under each value of its attribute.
type series struct {
	name, unit, description string
	attribute               string
	values                  []Count
}

// exported are the metrics. What one does not name by an attribute has one value.
var exported = []series{
	{"imds.watch.packets", "{packet}", "Packets between IMDS and sockets that are not the bridge's own.", "imds.watch.direction", []Count{"sent", "received"}},
	{"imds.watch.bytes", "By", "Payload that was sent to IMDS past the bridge.", "", []Count{"bytes"}},
	{"imds.watch.requests", "{request}", "Requests that were sent to IMDS past the bridge.", "", []Count{"requests"}},
	{"imds.watch.connections.unread", "{connection}", "Connections to IMDS without a request that could be told.", "reason", []Count{"silent", "malformed"}},
	{"imds.watch.lost", "{event}", "What the watch saw in part only: requests may be missing.", "reason", []Count{"ring_full", "unreadable", "unsynced", "gaps", "evicted", "queue_full"}},
	{"imds.watch.unnamed", "{request}", "Requests of nobody knows whom.", "", []Count{"unnamed"}},
}

// Observe exports the counters as the metrics imds.watch.*.
func (w *Watch) Observe(provider metric.MeterProvider) error {
	meter := provider.Meter("github.com/imds-bridge/imds-bridge/redirect/watch")
	for _, s := range exported {
		options := make(map[Count]metric.MeasurementOption, len(s.values))
		for _, v := range s.values {
			set := attribute.NewSet()
			if s.attribute != "" {
				set = attribute.NewSet(attribute.String(s.attribute, string(v)))
			}
			options[v] = metric.WithAttributeSet(set)
		}
		_, err := meter.Int64ObservableCounter(s.name, metric.WithUnit(s.unit), metric.WithDescription(s.description),
			metric.WithInt64Callback(func(_ context.Context, observer metric.Int64Observer) error {
				counters, err := w.Counters()
				if err != nil {
					return err
				}
				for _, v := range s.values {
					observer.Observe(int64(counters[v]), options[v])
				}
				return nil
			}))
		if err != nil {
			return fmt.Errorf("make the metric %s: %w", s.name, err)
		}
	}
	return nil
}
