// Package telemetry sets up the OpenTelemetry SDK, the logger and the redaction of secrets.
//
// Logs always go as JSON lines to the writer in [Options], and metrics always to
// [Telemetry.MetricsHandler]. Traces, metrics and logs also leave the process when the standard
// OTEL_* variables ask for it, and only then. Nothing here delays its caller for a slow
// collector or a blocked log reader: what cannot be kept is dropped and counted in
// imds.telemetry.dropped. The exception is the End of a span, see [Telemetry.TracerProvider].
package telemetry
