package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestDeadCollectorDelaysNoCall(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
	listener, err := i.Host().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close() // nobody answers there from now on
	i.checkNoDelay(t, listener.Addr())
}

func TestHangingCollectorDelaysNoCall(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
	listener, err := i.Host().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() }) // the kernel completes the handshakes, and nothing more comes
	i.checkNoDelay(t, listener.Addr())
}

// checkNoDelay makes more calls than the bridge's queues hold while a collector is of no use. Each must
// be answered at once, what is lost counted, and the bridge end in time all the same.
func (i *instance) checkNoDelay(t *testing.T, collector net.Addr) {
	t.Helper()
	const (
		calls   = 100
		atOnce  = 500 * time.Millisecond // a shared machine has its moments; an export gives up after 1s
		waiting = 6 * time.Second        // of a stop: what drain and flush may take
	)
	b := i.startBridge(t, bridgeOptions{env: []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + collector.String(), "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_BSP_SCHEDULE_DELAY=10", "OTEL_BSP_MAX_QUEUE_SIZE=8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=4",
		"OTEL_BLRP_SCHEDULE_DELAY=10", "OTEL_BLRP_MAX_QUEUE_SIZE=8", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE=4",
		"OTEL_EXPORTER_OTLP_TIMEOUT=1000", "OTEL_BSP_EXPORT_TIMEOUT=1000", "OTEL_METRIC_EXPORT_INTERVAL=100",
	}})
	i.bridgeToken(t)
	got := finish(t, i.Host().Start, curl(fmt.Sprintf("/latest/meta-data/instance-id?[1-%d]", calls), "--no-globoff",
		"--output", "/dev/null", "--write-out", "%{http_code} %{time_total}\n"))
	if got.err != nil {
		t.Fatalf("curl: %v, %s", got.err, got.stderr)
	}
	lines := strings.Split(got.stdout, "\n")
	if len(lines) != calls {
		t.Errorf("%d answers to %d calls", len(lines), calls)
	}
	for _, line := range lines {
		status, text, _ := strings.Cut(line, " ")
		seconds, err := strconv.ParseFloat(text, 64)
		if took := time.Duration(seconds * float64(time.Second)); err != nil || status != "200" || took > atOnce {
			t.Errorf("a call: status %s after %s, want 200 within %s", status, took, atOnce)
		}
	}
	await(t, "lost spans are counted", 15*time.Second, func() bool {
		status, metrics := b.get("/metrics")
		return status == http.StatusOK && dropped(metrics, "traces") > 0
	})
	start := time.Now()
	b.stop(t)
	if took := time.Since(start); took > waiting {
		t.Errorf("the bridge took %s to stop", took)
	}
}

// dropped sums the metric imds.telemetry.dropped of a signal over its reasons.
func dropped(metrics, signal string) (sum float64) {
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "imds_telemetry_dropped") && strings.Contains(line, `signal="`+signal+`"`) {
			fields := strings.Fields(line)
			n, _ := strconv.ParseFloat(fields[len(fields)-1], 64)
			sum += n
		}
	}
	return sum
}
