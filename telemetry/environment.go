package telemetry

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
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

// checkEnvironment refuses endpoints that the exporters would replace by their default in silence.
func checkEnvironment() error {
	if disabled() {
		return nil
	}
	var errs []error
	for _, signal := range []string{"", "TRACES_", "METRICS_", "LOGS_"} {
		name := "OTEL_EXPORTER_OTLP_" + signal + "ENDPOINT"
		if value := os.Getenv(name); value != "" && !isEndpoint(value) {
			errs = append(errs, fmt.Errorf("%s=%q is not a URL: write it like http://localhost:4318", name, value))
		}
	}
	return errors.Join(errs...)
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
	return fmt.Errorf("make the exporter of %s=%q (otlp, console and none are known): %w", name, os.Getenv(name), err)
}
