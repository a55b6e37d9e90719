package telemetry

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// exported reports whether the environment asks for a signal (TRACES, METRICS or LOGS) to leave
// the process. The rule is ours: the exporters' own default would dial a collector on localhost
// that nobody asked for.
func exported(signal string) bool {
	if disabled() {
		return false
	}
	if exporter := os.Getenv("OTEL_" + signal + "_EXPORTER"); exporter != "" {
		return exporter != "none"
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" ||
		os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

// disabled honours OTEL_SDK_DISABLED, which the SDK for Go leaves to the program.
func disabled() bool { return strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") }

// CheckEnvironment refuses values of OTEL_* variables that the SDK would replace by a default, with
// a word to nobody or with the value, a secret perhaps, in the log. It names every variable at fault.
func CheckEnvironment() error {
	if disabled() {
		return nil
	}
	var errs []error
	for _, check := range []struct {
		pattern string // %s stands for nothing and for each signal
		ok      func(string) bool
		want    string
		secret  bool
	}{
		{"OTEL_EXPORTER_OTLP_%sENDPOINT", isEndpoint, "a URL, like http://localhost:4318", false},
		{"OTEL_EXPORTER_OTLP_%sPROTOCOL", oneOf("grpc", "http/protobuf"), "grpc or http/protobuf", false},
		{"OTEL_EXPORTER_OTLP_%sHEADERS", isHeaders, "a list like name=value,name=value", true},
		{"OTEL_EXPORTER_OTLP_%sCERTIFICATE", isReadable, "a file that can be read", false},
		{"OTEL_EXPORTER_OTLP_%sCLIENT_CERTIFICATE", isReadable, "a file that can be read", false},
		{"OTEL_EXPORTER_OTLP_%sCLIENT_KEY", isReadable, "a file that can be read", false},
	} {
		for _, signal := range []string{"", "TRACES_", "METRICS_", "LOGS_"} {
			errs = append(errs, checkVariable(fmt.Sprintf(check.pattern, signal), check.ok, check.want, check.secret))
		}
	}
	for _, signal := range []string{"TRACES", "METRICS", "LOGS"} {
		errs = append(errs, checkVariable("OTEL_"+signal+"_EXPORTER", oneOf("otlp", "console", "none"),
			"otlp, console or none (for Prometheus there is /metrics on admin.listen)", false))
	}
	errs = append(errs, checkVariable("OTEL_TRACES_SAMPLER", oneOf("always_on", "always_off", "traceidratio",
		"parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"), "a sampler of the OpenTelemetry specification", false))
	return errors.Join(errs...)
}

// checkVariable takes a variable that is empty for one that is not set, as the specification does.
func checkVariable(name string, ok func(string) bool, want string, secret bool) error {
	value := os.Getenv(name)
	switch {
	case value == "" || ok(value):
		return nil
	case secret:
		return fmt.Errorf("%s must be %s (its value is not shown)", name, want)
	default:
		return fmt.Errorf("%s=%q must be %s", name, value, want)
	}
}

func oneOf(values ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(values, s) }
}

func isHeaders(s string) bool {
	for pair := range strings.SplitSeq(s, ",") {
		name, _, ok := strings.Cut(pair, "=")
		if !ok || !httpguts.ValidHeaderFieldName(strings.TrimSpace(name)) {
			return false
		}
	}
	return true
}

func isReadable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func isEndpoint(s string) bool {
	u, err := url.Parse(s)
	if err != nil {
		return false
	}
	switch u.Scheme {
	case "http", "https":
		return u.Host != ""
	case "unix":
		return u.Path != "" || u.Opaque != ""
	default:
		return false
	}
}

// exporterError names the variable behind an exporter that could not be made.
func exporterError(signal string, err error) error {
	name := "OTEL_" + signal + "_EXPORTER"
	return fmt.Errorf("make the exporter of %s=%q: %w", name, os.Getenv(name), err)
}
