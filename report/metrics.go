package report

import (
	"context"
	"net/http"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"

	"github.com/imds-bridge/imds-bridge/attribution"
)

// metrics are the instruments of calls. Every label is from a closed set.
type metrics struct {
	requests metric.Int64Counter
	duration httpconv.ServerRequestDuration
	upstream httpconv.ClientRequestDuration

	attributed metric.Int64Counter
	owned      map[attributedLabels]metric.MeasurementOption // touched by report alone
	selfNamed  int                                           // of owned, those that processes named themselves
	sets       sync.Map                                      // labels of a call -> metric.MeasurementOption: there are few, and they recur
}

func newMetrics(provider metric.MeterProvider) (*metrics, error) {
	meter := provider.Meter("github.com/imds-bridge/imds-bridge/report")
	m := &metrics{owned: make(map[attributedLabels]metric.MeasurementOption)}
	var errs [4]error
	m.requests, errs[0] = meter.Int64Counter("imds.requests", metric.WithUnit("{request}"),
		metric.WithDescription("Requests that callers made, by version, verdict, route and status."))
	m.duration, errs[1] = httpconv.NewServerRequestDuration(meter)
	m.upstream, errs[2] = httpconv.NewClientRequestDuration(meter)
	m.attributed, errs[3] = meter.Int64Counter("imds.attributed_requests", metric.WithUnit("{request}"),
		metric.WithDescription("Requests that callers made, by version, owner and client, and what is to be done about them."))
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return m, nil
}

// labels tell calls apart in metrics.
type labels struct {
	version, verdict, method, route string
	status                          int
}

func (m *metrics) record(c *Call) {
	key := labels{c.Kind.String(), string(c.Decision.Verdict), knownMethod(c.Method), c.Route.Pattern, c.Status}
	ctx := context.Background()
	m.requests.Add(ctx, 1, m.option(key, requestLabels))
	m.duration.Inst().Record(ctx, c.End.Sub(c.Start).Seconds(), m.option(key, durationLabels))
	m.recordLegs(c.ownLegs())
}

// recordLegs counts exchanges with IMDS, each once.
func (m *metrics) recordLegs(legs []Leg) {
	for i := range legs {
		key := labels{method: knownMethod(legs[i].Method), status: legs[i].Status}
		m.upstream.Inst().Record(context.Background(), legs[i].End.Sub(legs[i].Start).Seconds(), m.option(key, legLabels))
	}
}

// attributedLabels tell calls apart by who is to do something about them.
type attributedLabels struct{ version, owner, client, advice string }

const (
	// maxAttributed bounds the series: owners are names that others choose.
	maxAttributed = 1000
	// maxSelfNamed leaves room for the rest: each process may call itself another name.
	maxSelfNamed = maxAttributed / 4
)

// overflow takes the calls of owners beyond that: OpenTelemetry, Metrics SDK, "Overflow attribute", has
// the same for whole series.
const overflow = "_OTHER"

func (m *metrics) recordAttributed(c *Call, known *attribution.Attribution) {
	key := attributedLabels{version: c.Kind.String(), owner: known.Owner.Name, client: known.Client.Name}
	if known.Advice != nil {
		key.advice = string(known.Advice.Code)
	}
	option, ok := m.owned[key]
	selfNamed := strings.HasPrefix(known.Owner.From, "env:")
	if !ok && (len(m.owned) >= maxAttributed || selfNamed && m.selfNamed >= maxSelfNamed) {
		key.owner, selfNamed = overflow, false
		option, ok = m.owned[key]
	}
	if !ok {
		if selfNamed {
			m.selfNamed++
		}
		option = metric.WithAttributeSet(attribute.NewSet(pairs{
			{"imds.version", key.version}, {"imds.owner.name", key.owner},
			{"imds.client.name", key.client}, {"imds.advice.code", key.advice},
		}.span()...))
		m.owned[key] = option
	}
	m.attributed.Add(context.Background(), 1, option)
}

type labelKind uint8

const (
	requestLabels labelKind = iota
	durationLabels
	legLabels
)

func (m *metrics) option(l labels, kind labelKind) metric.MeasurementOption {
	type key struct {
		labels
		labelKind
	}
	if o, ok := m.sets.Load(key{l, kind}); ok {
		return o.(metric.MeasurementOption)
	}
	o := metric.WithAttributeSet(attribute.NewSet(l.attributes(kind)...))
	m.sets.Store(key{l, kind}, o)
	return o
}

func (l labels) attributes(kind labelKind) []attribute.KeyValue {
	var a []attribute.KeyValue
	switch kind {
	case requestLabels:
		a = []attribute.KeyValue{
			attribute.String("imds.version", l.version),
			attribute.String("imds.verdict", l.verdict),
			semconv.HTTPRoute(l.route),
		}
	case durationLabels:
		a = []attribute.KeyValue{
			semconv.HTTPRequestMethodKey.String(l.method),
			semconv.URLScheme("http"),
			semconv.HTTPRoute(l.route),
		}
	case legLabels:
		a = []attribute.KeyValue{
			semconv.HTTPRequestMethodKey.String(l.method),
			semconv.ServerAddress("169.254.169.254"),
			semconv.ServerPort(80),
		}
	}
	if l.status != 0 {
		a = append(a, semconv.HTTPResponseStatusCode(l.status))
	} else {
		a = append(a, semconv.ErrorTypeOther)
	}
	return a
}

// knownMethod keeps labels and span names closed: HTTP semantic conventions, http.request.method.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace, http.MethodPatch:
		return method
	}
	return "_OTHER"
}
