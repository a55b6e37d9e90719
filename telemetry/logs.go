package telemetry

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
)

// startLogs returns nil unless logs are to be exported.
func (t *Telemetry) startLogs(ctx context.Context, res *resource.Resource) (log.LoggerProvider, error) {
	if !exported("LOGS") {
		return nil, nil
	}
	exporter, err := autoexport.NewLogExporter(ctx)
	if err != nil {
		return nil, exporterError("LOGS", err)
	}
	out := &logExporter{Exporter: exporter, aborted: t.aborted, drops: t.drops}
	size := logQueueSize()
	provider := sdklog.NewLoggerProvider(
		sdklog.WithResource(res),
		sdklog.WithProcessor(&boundedProcessor{
			BatchProcessor: sdklog.NewBatchProcessor(out, sdklog.WithMaxQueueSize(size)),
			pending:        &out.pending,
			limit:          int64(size),
			drops:          t.drops,
		}),
	)
	t.shutdowns = append(t.shutdowns, provider.Shutdown)
	return provider, nil
}

// logQueueSize is the batch processor's own rule, needed here to know when it would drop.
func logQueueSize() int {
	if n, err := strconv.Atoi(os.Getenv("OTEL_BLRP_MAX_QUEUE_SIZE")); err == nil && n > 0 {
		return n
	}
	return 2048
}

// boundedProcessor refuses a record when as many wait as the batch processor holds. That one
// would overwrite its oldest, and tell no number that can be counted.
type boundedProcessor struct {
	*sdklog.BatchProcessor
	pending *atomic.Int64
	limit   int64
	drops   *drops
}

func (p *boundedProcessor) OnEmit(ctx context.Context, r *sdklog.Record) error {
	if p.pending.Add(1) > p.limit {
		p.pending.Add(-1)
		p.drops.add(Logs, QueueFull, 1)
		return nil
	}
	return p.BatchProcessor.OnEmit(ctx, r)
}

// Shutdown counts what the last export left behind.
func (p *boundedProcessor) Shutdown(ctx context.Context) error {
	err := p.BatchProcessor.Shutdown(ctx)
	if err != nil {
		p.drops.add(Logs, ExportFailed, int(p.pending.Swap(0)))
	}
	return err
}

// logExporter counts records whose export failed, and ends exports when aborted is done.
type logExporter struct {
	sdklog.Exporter
	pending atomic.Int64
	aborted context.Context
	drops   *drops
}

func (e *logExporter) Export(ctx context.Context, records []sdklog.Record) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.aborted, cancel)()

	err := e.Exporter.Export(ctx, records)
	e.pending.Add(-int64(len(records)))
	if err != nil {
		e.drops.add(Logs, ExportFailed, len(records))
	}
	return err
}
