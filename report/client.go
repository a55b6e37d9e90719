package report

import (
	"log/slog"

	"go.opentelemetry.io/otel/attribute"

	"github.com/imds-bridge/imds-bridge/attribution"
	"github.com/imds-bridge/imds-bridge/imds/client"
)

// clientValues are what the log says of the client that made a call, and of what is to be done about it.
func clientValues(known *attribution.Attribution) (a []slog.Attr) {
	if c := known.Client; c.Name != "" {
		a = append(a, group("imds_client", pairs{
			{"name", c.Name}, {"version", c.Version}, {"kind", c.Kind.String()},
			{"confidence", c.Confidence.String()}, {"from", c.From.String()},
			{"sdk", c.SDK}, {"sdk_version", c.SDKVersion},
			{"speaks_v2", c.SpeaksV2().String()}, {"contradiction", c.Contradiction},
		})...)
	}
	if d := known.Advice; d != nil {
		a = append(a, group("advice", pairs{{"code", string(d.Code)}, {"text", d.Text}, {"link", d.Link}})...)
	}
	return a
}

func findings(waste []client.Finding) []string {
	list := make([]string, len(waste))
	for i, f := range waste {
		list[i] = f.String()
	}
	return list
}

// clientAttributes are the same for a span.
func clientAttributes(known *attribution.Attribution) (a []attribute.KeyValue) {
	if c := known.Client; c.Name != "" {
		a = pairs{
			{"imds.client.name", c.Name}, {"imds.client.version", c.Version}, {"imds.client.kind", c.Kind.String()},
			{"imds.client.confidence", c.Confidence.String()},
			{"imds.client.sdk.name", c.SDK}, {"imds.client.sdk.version", c.SDKVersion},
			{"imds.client.speaks_v2", c.SpeaksV2().String()},
			{"imds.client.contradiction", c.Contradiction},
		}.span()
	}
	if d := known.Advice; d != nil {
		a = append(a, pairs{{"imds.advice.code", string(d.Code)}, {"imds.advice.text", d.Text}, {"imds.advice.link", d.Link}}.span()...)
	}
	return a
}
