package iptables

import (
	"context"
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// outcome is what became of a connection that arrived, in the words of the hook where they fit. What goes
// past the rules does not arrive, and is not counted here.
type outcome int

const (
	outcomeRedirected   outcome = iota // it was sent to IMDS
	outcomeJoined                      // and its caller is known
	outcomeAmbiguous                   // or there is more than one that it can be
	outcomeNotJoined                   // or none was found
	outcomeNotPermitted                // or may not be looked for
	outcomeDirect                      // it was sent to the listener itself
	outcomeOutside                     // it may be of another machine; counted besides
	outcomeCount
)

var outcomeNames = [outcomeCount]string{
	"redirected", "joined", "ambiguous", "not_joined", "not_permitted", "direct", "outside",
}

type counts [outcomeCount]atomic.Int64

func (c *counts) add(o outcome) { c[o].Add(1) }

// Observe exports what became of connections as the metric imds.connects, by outcome.
func (r *Redirector) Observe(provider metric.MeterProvider) error {
	meter := provider.Meter("github.com/imds-bridge/imds-bridge/redirect")
	_, err := meter.Int64ObservableCounter("imds.connects", metric.WithUnit("{connection}"),
		metric.WithDescription("What became of connections to IMDS that were redirected, and of the search for their callers."),
		metric.WithInt64Callback(func(_ context.Context, observer metric.Int64Observer) error {
			for o, name := range outcomeNames {
				observer.Observe(r.counts[o].Load(), metric.WithAttributes(
					attribute.String("imds.outcome", name), attribute.Bool("imds.bypass", false)))
			}
			return nil
		}))
	if err != nil {
		return fmt.Errorf("make the metric of connects: %w", err)
	}
	return nil
}
