package telemetry

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	promexport "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
)

// maxSeries bounds one instrument's sets of attributes; the SDK folds more into one overflow set.
const maxSeries = 2000

// startMetrics makes one provider for the Prometheus page and, if configured, an exporter.
func (t *Telemetry) startMetrics(ctx context.Context, res *resource.Resource) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	page, err := promexport.New(
		promexport.WithRegisterer(registry),
		// Said, not left to a default, since dashboards and alerts depend on the names.
		promexport.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
		promexport.WithoutScopeInfo(),
	)
	if err != nil {
		return fmt.Errorf("make the metrics page: %w", err)
	}
	options := []sdkmetric.Option{
		sdkmetric.WithResource(res),
		sdkmetric.WithCardinalityLimit(maxSeries),
		sdkmetric.WithReader(page),
	}
	if exported("METRICS") {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return exporterError("METRICS", err)
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	provider := sdkmetric.NewMeterProvider(options...)
	t.meters = provider
	t.metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	t.shutdowns = append(t.shutdowns, provider.Shutdown)
	return t.drops.register(provider.Meter(ScopeName))
}
