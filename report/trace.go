package report

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/imds"
)

// endedSpan is a span that is to end at a time of the past.
type endedSpan struct {
	trace.Span
	at time.Time
}

// startTrace makes the spans of a call: one for the request as it was served, below it one for
// each exchange with IMDS. The caller ends them.
func startTrace(ctx context.Context, tracer trace.Tracer, c *Call, who []attribute.KeyValue) (context.Context, []endedSpan) {
	method := knownMethod(c.Method)
	ctx, server := tracer.Start(ctx, spanName(method, c.Route.Pattern),
		// A root, always: what the caller sends says nothing about our sampling.
		trace.WithNewRoot(),
		trace.WithLinks(inboundLinks(c)...),
		trace.WithSpanKind(trace.SpanKindServer),
		trace.WithTimestamp(c.Start),
	)
	if !server.IsRecording() {
		return ctx, nil
	}
	server.SetAttributes(append(requestAttributes(method, c, len(who)), who...)...)
	if c.Error != "" || c.Status >= 500 {
		server.SetStatus(codes.Error, shorten(causeText(c)))
	}
	spans := make([]endedSpan, 0, 1+len(c.Legs))
	for i := range c.Legs {
		spans = append(spans, startLeg(ctx, tracer, c, &c.Legs[i]))
	}
	return ctx, append(spans, endedSpan{server, c.End})
}

func spanName(method, route string) string {
	if method == "_OTHER" {
		method = "HTTP" // HTTP semantic conventions, "Name"
	}
	if route == "" {
		return method
	}
	return method + " " + route
}

func causeText(c *Call) string {
	if c.Cause != nil {
		return c.Cause.Error()
	}
	return c.Error
}

func inboundLinks(c *Call) []trace.Link {
	if c.Trace == nil {
		return nil
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(c.Trace))
	inbound := trace.SpanContextFromContext(ctx)
	if !inbound.IsValid() {
		return nil
	}
	return []trace.Link{{SpanContext: inbound}}
}

// requestAttributes leaves room for so many more.
func requestAttributes(method string, c *Call, more int) []attribute.KeyValue {
	a := make([]attribute.KeyValue, 0, 24+more)
	a = append(a,
		semconv.HTTPRequestMethodKey.String(method),
		semconv.URLScheme("http"),
		semconv.URLPath(shorten(c.Path)),
		semconv.NetworkProtocolVersion(strings.TrimPrefix(c.Proto, "HTTP/")),
		semconv.NetworkTransportTCP,
		semconv.NetworkPeerAddress(c.Client.Addr().String()),
		semconv.NetworkPeerPort(int(c.Client.Port())),
		attribute.String("imds.version", c.Kind.String()),
		attribute.String("imds.route", c.Route.Pattern),
		attribute.String("imds.verdict", string(c.Decision.Verdict)),
		attribute.String("imds.reason", string(c.Decision.Reason)),
		attribute.Bool("imds.upgraded", c.Upgraded),
		attribute.Bool("imds.sensitive", c.Route.Sensitive),
	)
	if method == "_OTHER" {
		a = append(a, semconv.HTTPRequestMethodOriginal(shorten(c.Method)))
	}
	if c.Route.Pattern != "" {
		a = append(a, semconv.HTTPRoute(c.Route.Pattern))
	}
	if c.Status != 0 {
		a = append(a, semconv.HTTPResponseStatusCode(c.Status))
	}
	if c.UserAgent != "" {
		a = append(a, semconv.UserAgentOriginal(shorten(c.UserAgent)))
	}
	if c.Peer.Original.IsValid() {
		a = append(a,
			semconv.ServerAddress(c.Peer.Original.Addr().Unmap().String()),
			semconv.ServerPort(int(c.Peer.Original.Port())),
			networkType(c.Peer.Original.Addr()),
		)
	}
	if c.RelaySign != "" {
		a = append(a, attribute.String("imds.relay_sign", c.RelaySign))
	}
	switch {
	case c.Error != "":
		a = append(a, semconv.ErrorTypeKey.String(c.Error))
	case c.Status >= 500:
		a = append(a, semconv.ErrorTypeKey.String(strconv.Itoa(c.Status)))
	}
	return a
}

func networkType(a netip.Addr) attribute.KeyValue {
	if a.Unmap().Is4() {
		return semconv.NetworkTypeIPv4
	}
	return semconv.NetworkTypeIPv6
}

func callerAttributes(who person) []attribute.KeyValue {
	a := make([]attribute.KeyValue, 0, 48)
	if who.hasProcess() {
		a = append(a,
			semconv.ProcessPID(int(who.PID)),
			semconv.ProcessParentPID(int(who.PPID)),
			attribute.Int("imds.caller.gid", int(who.GID)),
			attribute.String("imds.caller.comm", who.Comm),
		)
	}
	if who.hasSocket() {
		a = append(a,
			semconv.ProcessUserID(int(who.UID)),
			attribute.Int64("imds.caller.network_namespace", int64(who.NetNS)),
		)
	}
	a = append(a,
		attribute.Bool("imds.caller.complete", who.Complete),
		attribute.Bool("imds.caller.host_network", who.hostNetwork),
	)
	if who.Executable != "" {
		a = append(a, semconv.ProcessExecutablePath(who.Executable), semconv.ProcessExecutableName(path.Base(who.Executable)))
	}
	if who.ExecutableDeleted {
		a = append(a, attribute.Bool("imds.caller.executable_deleted", true))
	}
	if len(who.Args) > 0 {
		a = append(a, semconv.ProcessCommandArgs(who.Args...))
	}
	if who.User != "" {
		a = append(a, semconv.ProcessOwner(who.User))
	}
	if who.hasProcess() && !who.Started.IsZero() {
		a = append(a, semconv.ProcessCreationTime(who.Started.UTC().Format(time.RFC3339Nano)))
	}
	if who.Cgroup != "" {
		a = append(a, semconv.ProcessLinuxCgroup(who.Cgroup))
	}
	if who.ContainerID != "" {
		a = append(a, semconv.ContainerID(who.ContainerID))
	}
	if runtime := runtimeOf(who); runtime != "" {
		a = append(a, semconv.ContainerRuntimeName(runtime))
	}
	if who.ambiguous {
		a = append(a, attribute.Bool("imds.caller.ambiguous", true))
	}
	if len(who.Ancestors) > 0 {
		a = append(a, attribute.String("imds.caller.ancestors", lineage(who.Ancestors)))
	}
	return append(a, whoAttributes(who)...)
}

// lineage is the ancestors in one line, the parent first. One string costs an export a fraction of
// what a list does.
func lineage(ancestors []caller.Process) string {
	var b strings.Builder
	for i, p := range ancestors {
		if i > 0 {
			b.WriteString(" < ")
		}
		fmt.Fprintf(&b, "%d %s", p.PID, p.Comm)
		if runs := p.Runs(); runs != "" {
			fmt.Fprintf(&b, " (%s)", runs)
		}
	}
	return b.String()
}

func startLeg(ctx context.Context, tracer trace.Tracer, c *Call, leg *Leg) endedSpan {
	route := c.Route.Pattern
	if leg.Token {
		route = imds.TokenPath
	}
	start := leg.Start
	if start.Before(c.Start) {
		start = c.Start // a token fetch that another call had begun
	}
	_, span := tracer.Start(ctx, spanName(knownMethod(leg.Method), route), trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(start))
	host, port := leg.Address.Addr().String(), int(leg.Address.Port())
	span.SetAttributes(
		semconv.HTTPRequestMethodKey.String(knownMethod(leg.Method)),
		semconv.ServerAddress(host),
		semconv.ServerPort(port),
		semconv.URLFull("http://"+leg.Address.String()+shorten(leg.path(c))),
		attribute.Bool("imds.token_fetch", leg.Token),
	)
	if leg.Resends > 0 {
		span.SetAttributes(semconv.HTTPRequestResendCount(leg.Resends))
	}
	if leg.Status != 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(leg.Status))
	}
	switch {
	case leg.Err != nil:
		span.SetAttributes(semconv.ErrorTypeKey.String(ErrorUpstream))
		span.SetStatus(codes.Error, shorten(leg.Err.Error()))
	case leg.Status >= 400:
		span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(leg.Status)))
		span.SetStatus(codes.Error, "")
	}
	return endedSpan{span, leg.End}
}

// path leaves the query out: IMDS has none, so whatever stands there is nobody's to keep.
func (l *Leg) path(c *Call) string {
	if l.Token {
		return imds.TokenPath
	}
	return c.Path
}

// maxText bounds what a caller can put into a span or a log line, in bytes.
const maxText = 512

// shorten also makes it harmless to logs and terminals.
func shorten(s string) string { return caller.Printable(s, maxText) }
