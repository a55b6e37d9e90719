package telemetry

import (
	"context"
	"slices"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// startTraces leaves the no-op provider in place unless traces are to be exported.
func (t *Telemetry) startTraces(ctx context.Context, res *resource.Resource) error {
	if !exported("TRACES") {
		return nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return exporterError("TRACES", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(res),
		// Blocking, so that no span is lost uncounted here; see TracerProvider.
		sdktrace.WithBatcher(&spanExporter{exporter, t.aborted, t.drops}, sdktrace.WithBlocking()),
	)
	t.traces, t.tracing = provider, true
	t.shutdowns = append(t.shutdowns, provider.Shutdown)
	return nil
}

// spanExporter masks secrets, counts spans whose export failed, and ends exports when aborted is done.
type spanExporter struct {
	sdktrace.SpanExporter
	aborted context.Context
	drops   *drops
}

func (e *spanExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.aborted, cancel)()

	masked := make([]sdktrace.ReadOnlySpan, len(spans))
	for i, s := range spans {
		masked[i] = redactSpan(s)
	}
	err := e.SpanExporter.ExportSpans(ctx, masked)
	if err != nil {
		e.drops.add(Traces, ExportFailed, len(spans))
	}
	return err
}

// maskedSpan replaces those parts of a span that carry text from outside.
type maskedSpan struct {
	sdktrace.ReadOnlySpan
	attributes []attribute.KeyValue
	events     []sdktrace.Event
	status     sdktrace.Status
}

func (s maskedSpan) Attributes() []attribute.KeyValue { return s.attributes }
func (s maskedSpan) Events() []sdktrace.Event         { return s.events }
func (s maskedSpan) Status() sdktrace.Status          { return s.status }

// redactSpan returns s itself if there is nothing to mask.
func redactSpan(s sdktrace.ReadOnlySpan) sdktrace.ReadOnlySpan {
	attributes, changed := redactKeyValues(s.Attributes())
	status := s.Status()
	if text := Redact(status.Description); text != status.Description {
		status.Description, changed = text, true
	}
	events := s.Events()
	for i, e := range events {
		if kvs, dirty := redactKeyValues(e.Attributes); dirty {
			events = slices.Clone(events)
			events[i].Attributes, changed = kvs, true
		}
	}
	if !changed {
		return s
	}
	return maskedSpan{s, attributes, events, status}
}

// redactKeyValues returns kvs itself if there is nothing to mask.
func redactKeyValues(kvs []attribute.KeyValue) ([]attribute.KeyValue, bool) {
	changed := false
	for i, kv := range kvs {
		masked, dirty := redactKeyValue(kv)
		if dirty && !changed {
			kvs, changed = slices.Clone(kvs), true
		}
		if dirty {
			kvs[i] = masked
		}
	}
	return kvs, changed
}

func redactKeyValue(kv attribute.KeyValue) (attribute.KeyValue, bool) {
	if secretName(string(kv.Key)) {
		return kv.Key.String(mask), true
	}
	switch kv.Value.Type() {
	case attribute.BOOL, attribute.INT64, attribute.FLOAT64,
		attribute.BOOLSLICE, attribute.INT64SLICE, attribute.FLOAT64SLICE:
		return kv, false
	case attribute.STRINGSLICE:
		masked, changed := redactStrings(kv.Value.AsStringSlice())
		return kv.Key.StringSlice(masked), changed
	default:
		text := kv.Value.String()
		masked := Redact(text)
		if masked == text {
			return kv, false
		}
		return kv.Key.String(masked), true
	}
}
