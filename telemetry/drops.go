package telemetry

import (
	"context"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Signal is what was lost.
type Signal string

// The signals that can be lost. Metrics cannot: the next export carries their sums again.
const (
	Traces Signal = "traces"
	Logs   Signal = "logs"
)

// Reason is why something was lost.
type Reason string

// The reasons for a loss.
const (
	QueueFull    Reason = "queue_full"    // no room in a bounded queue
	ExportFailed Reason = "export_failed" // not taken by the collector, or not written
)

// drops counts what was lost. The set of series is closed and each starts at 0, so that an alert
// on a rate sees the first loss.
type drops struct{ counts map[drop]*atomic.Int64 }

type drop struct {
	signal Signal
	reason Reason
}

func newDrops() *drops {
	d := &drops{counts: make(map[drop]*atomic.Int64)}
	for _, s := range []Signal{Traces, Logs} {
		for _, r := range []Reason{QueueFull, ExportFailed} {
			d.counts[drop{s, r}] = new(atomic.Int64)
		}
	}
	return d
}

func (d *drops) add(s Signal, r Reason, n int) {
	if c, ok := d.counts[drop{s, r}]; ok {
		c.Add(int64(n))
	}
}

func (d *drops) register(meter metric.Meter) error {
	_, err := meter.Int64ObservableCounter("imds.telemetry.dropped",
		metric.WithDescription("Spans and log records that were lost, by signal and reason."),
		metric.WithUnit("{item}"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			for k, c := range d.counts {
				o.Observe(c.Load(), metric.WithAttributes(
					attribute.String("signal", string(k.signal)), attribute.String("reason", string(k.reason))))
			}
			return nil
		}))
	return err
}
