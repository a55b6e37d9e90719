package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"go.opentelemetry.io/otel/trace"
)

// jsonHandler writes one JSON line a record, with the ids of the span in the record's context.
func jsonHandler(w io.Writer, level slog.Level) slog.Handler {
	return traced{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})}
}

// traced adds the ids by which a log line is found from its trace. Exported records need no such
// attributes: the OTLP form has fields for them.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(attrs)} }
func (h traced) WithGroup(name string) slog.Handler       { return traced{h.Handler.WithGroup(name)} }

// leveled keeps records below a level from a handler that has no level of its own.
type leveled struct {
	slog.Handler
	level slog.Level
}

func (h leveled) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.level && h.Handler.Enabled(ctx, l)
}

func (h leveled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return leveled{h.Handler.WithAttrs(attrs), h.level}
}

func (h leveled) WithGroup(name string) slog.Handler {
	return leveled{h.Handler.WithGroup(name), h.level}
}

// redactor masks secrets in messages and attributes. It is the last line of defence; those who
// log are to keep secrets out in the first place.
type redactor struct{ slog.Handler }

func (h redactor) Handle(ctx context.Context, r slog.Record) error {
	message := Redact(r.Message)
	changed := message != r.Message
	r.Attrs(func(a slog.Attr) bool {
		if !changed {
			_, changed = redactAttr(a)
		}
		return !changed
	})
	if changed {
		masked := slog.NewRecord(r.Time, r.Level, message, r.PC)
		r.Attrs(func(a slog.Attr) bool {
			a, _ = redactAttr(a)
			masked.AddAttrs(a)
			return true
		})
		r = masked
	}
	return h.Handler.Handle(ctx, r)
}

func (h redactor) WithAttrs(attrs []slog.Attr) slog.Handler {
	attrs, _ = redactAttrs(attrs)
	return redactor{h.Handler.WithAttrs(attrs)}
}

func (h redactor) WithGroup(name string) slog.Handler { return redactor{h.Handler.WithGroup(name)} }

func redactAttr(a slog.Attr) (slog.Attr, bool) {
	if secretName(a.Key) {
		return slog.String(a.Key, mask), true
	}
	value, changed := redactValue(a.Value)
	return slog.Attr{Key: a.Key, Value: value}, changed
}

// redactAttrs returns attrs itself if there is nothing to mask.
func redactAttrs(attrs []slog.Attr) ([]slog.Attr, bool) {
	changed := false
	for i, a := range attrs {
		masked, dirty := redactAttr(a)
		if dirty && !changed {
			attrs, changed = slices.Clone(attrs), true
		}
		if dirty {
			attrs[i] = masked
		}
	}
	return attrs, changed
}

func redactValue(v slog.Value) (slog.Value, bool) {
	switch v.Kind() {
	case slog.KindString:
		masked := Redact(v.String())
		return slog.StringValue(masked), masked != v.String()
	case slog.KindGroup:
		attrs, changed := redactAttrs(v.Group())
		return slog.GroupValue(attrs...), changed
	case slog.KindLogValuer:
		// The resolved value is what goes on: a second call could give another.
		resolved, _ := redactValue(v.Resolve())
		return resolved, true
	case slog.KindAny:
		return redactAny(v)
	default:
		return v, false
	}
}

func redactAny(v slog.Value) (slog.Value, bool) {
	switch x := v.Any().(type) {
	case []string:
		masked, changed := redactStrings(x)
		return slog.AnyValue(masked), changed
	case []byte:
		masked := Redact(string(x))
		return slog.StringValue(masked), masked != string(x)
	default:
		// An error, a Stringer or a structure: judged, and if need be shown, by its text.
		text := fmt.Sprintf("%+v", x)
		masked := Redact(text)
		if masked == text {
			return v, false
		}
		return slog.StringValue(masked), true
	}
}
