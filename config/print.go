package config

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// plain matches values that need no quotes in YAML.
var plain = regexp.MustCompile(`^[A-Za-z0-9/][A-Za-z0-9_./-]*(:[0-9]+)?$`)

// YAML writes every setting with its meaning and where its value came from. The result is itself a
// configuration file.
func (c Config) YAML() []byte {
	var b bytes.Buffer
	list, sections := settings(&c)
	b.WriteString("# The effective configuration. After each value: where it came from.\n")
	within := ""
	for _, s := range list {
		parent, key, nested := strings.Cut(s.path, ".")
		indent := ""
		if nested {
			indent = "  "
		} else {
			key = parent
		}
		b.WriteString("\n")
		if nested && parent != within {
			within = parent
			fmt.Fprintf(&b, "# %s\n%s:\n", docOf(sections, parent), parent)
		}
		fmt.Fprintf(&b, "%s# %s\n", indent, s.comment())
		fmt.Fprintf(&b, "%s%s: %s  # %s\n", indent, key, quoted(s.String()), c.source(s.path))
	}
	return b.Bytes()
}

func (c Config) source(path string) string {
	if source := c.from[path]; source != "" {
		return strings.ReplaceAll(source, "\n", " ")
	}
	return "default"
}

func (s setting) comment() string {
	if len(s.allowed) == 0 {
		return s.doc
	}
	return s.doc + " (" + strings.Join(s.allowed, " | ") + ")"
}

func docOf(sections []section, path string) string {
	for _, s := range sections {
		if s.path == path {
			return s.doc
		}
	}
	return ""
}

func quoted(value string) string {
	if plain.MatchString(value) {
		return value
	}
	return strconv.Quote(value)
}

// Reference is docs/config.md: every setting by all its names.
func Reference() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, referenceHead, DefaultFile, fileVariable)
	c := Default()
	list, _ := settings(&c)
	for _, s := range list {
		doc := s.doc
		if len(s.allowed) > 0 {
			doc += " `" + strings.Join(s.allowed, "`, `") + "`."
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | `--%s` | `%s` | %s |\n", s.path, s.environment(), s.path, quoted(s.String()), doc)
	}
	b.WriteString(referenceTail)
	return b.Bytes()
}

const referenceHead = `<!-- Made from the package config by "go generate ./config". Do not edit. -->

# Configuration

Each setting is a key in one YAML file, an environment variable and a flag. A flag wins over a
variable, a variable over the file, the file over the default.

- The file is that of ` + "`--config`, else that of `%[2]s`, else `%[1]s`" + ` if it exists.
- Keys may be nested or written with dots: ` + "`limits.callers: 100`" + `.
- A key, a variable with the prefix ` + "`IMDS_BRIDGE_`" + ` or a flag that is not known is refused, and so is a key
  that stands twice.
- A variable that is set to nothing counts as set; it is how an address is switched off.
- Variables that Kubernetes derives from a Service named ` + "`imds-bridge`" + ` are passed over.
- ` + "`imds-bridge run --print-config`" + ` shows what holds, and where each value came from.

| Key | Variable | Flag | Default | Meaning |
|---|---|---|---|---|
`

const referenceTail = `
## Telemetry

Traces, metrics and logs leave the bridge by the standard ` + "`OTEL_*`" + ` variables of the OpenTelemetry SDK
alone. A signal is exported when its ` + "`OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` or `OTEL_LOGS_EXPORTER`" + `
is set (` + "`otlp`, `console`, `none`" + `), or when ` + "`OTEL_EXPORTER_OTLP_ENDPOINT`" + ` or that of the signal
(` + "`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`" + ` and so on) is; without any, nothing is. ` + "`OTEL_EXPORTER_OTLP_PROTOCOL`" + `
is ` + "`http/protobuf` or `grpc`" + `. An empty variable counts as not set. ` + "`OTEL_SDK_DISABLED=true`" + ` keeps
everything in, whatever else is set; the log on standard error and ` + "`/metrics`" + ` on the admin listener stay.
`
