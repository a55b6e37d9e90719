package telemetry

import (
	"context"
	"testing"

	logspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// startCollectorGRPC is an OTLP/gRPC receiver, in the clear as its URL says.
func startCollectorGRPC(t *testing.T) *collector {
	t.Helper()
	l := listen(t)
	c := &collector{url: "http://" + l.Addr().String()}
	server := grpc.NewServer()
	tracepb.RegisterTraceServiceServer(server, traceService{c: c})
	metricspb.RegisterMetricsServiceServer(server, metricsService{c: c})
	logspb.RegisterLogsServiceServer(server, logsService{c: c})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c
}

type traceService struct {
	tracepb.UnimplementedTraceServiceServer
	c *collector
}

func (s traceService) Export(_ context.Context, r *tracepb.ExportTraceServiceRequest) (*tracepb.ExportTraceServiceResponse, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.traces = append(s.c.traces, r)
	return &tracepb.ExportTraceServiceResponse{}, nil
}

type metricsService struct {
	metricspb.UnimplementedMetricsServiceServer
	c *collector
}

func (s metricsService) Export(_ context.Context, r *metricspb.ExportMetricsServiceRequest) (*metricspb.ExportMetricsServiceResponse, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.metrics = append(s.c.metrics, r)
	return &metricspb.ExportMetricsServiceResponse{}, nil
}

type logsService struct {
	logspb.UnimplementedLogsServiceServer
	c *collector
}

func (s logsService) Export(_ context.Context, r *logspb.ExportLogsServiceRequest) (*logspb.ExportLogsServiceResponse, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.logs = append(s.c.logs, r)
	return &logspb.ExportLogsServiceResponse{}, nil
}
