package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/report"
	"github.com/imds-bridge/imds-bridge/simulator"
)

// bench is a simulator, a bridge before it, and what the bridge reports.
type bridge struct {
	imds *simulator.Simulator
	imdsAddr,
	addr string
	proxy    *Proxy
	reporter *report.Reporter
	logs     *lines
	spans    *tracetest.InMemoryExporter
	drops    *sync.Map
}

type setup struct {
	metadata  simulator.MetadataOptions
	behaviour simulator.Behaviour
	tree      *simulator.Tree // nil: the built-in one
	policy    policy.Policy
	peer      *caller.Peer // nil: a process of the host
	unknown   bool         // no kernel record
	limits    Limits
	upstream  Upstream
	tracer    *sdktrace.TracerProvider
	meter     metric.MeterProvider
	caller    func(caller.Origin) *caller.Caller
}

var upgradeHost = policy.Policy{Mode: policy.UpgradeCalls, ContainersV1: policy.Pass, ContainersTokens: policy.HopLimit}

var standardLimits = Limits{
	Connections: 256, ConnectionsPerCaller: 128, HeaderBytes: 16 << 10, BodyBytes: 16 << 10,
	ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 30 * time.Second,
}

func (s setup) start(t *testing.T) *bridge { t.Helper(); return s.startWithLookup(t, s.lookup) }

func (s setup) startWithLookup(t *testing.T, lookup func(net.Conn) (caller.Peer, error)) *bridge {
	t.Helper()
	return s.startWith(t, func(accepted net.Conn) (caller.Peer, func() (caller.Peer, error), error) {
		peer, err := lookup(accepted)
		return peer, nil, err
	})
}

func (s setup) startWith(t *testing.T, lookup Lookup) *bridge {
	t.Helper()
	imds, err := simulator.New(simulator.Options{Metadata: s.metadata, Behaviour: s.behaviour, Tree: s.tree})
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{imds: imds, logs: &lines{}, spans: tracetest.NewInMemoryExporter(), drops: &sync.Map{}}
	l := listen(t)
	b.imdsAddr = l.Addr().String()
	go imds.Serve(l)
	t.Cleanup(func() { imds.Close() })

	if s.policy == (policy.Policy{}) {
		s.policy = upgradeHost
	}
	if s.limits == (Limits{}) {
		s.limits = standardLimits
	}
	if !s.upstream.IPv4.IsValid() {
		s.upstream.IPv4 = netip.MustParseAddrPort(b.imdsAddr)
	}
	if s.upstream.Timeout == 0 {
		s.upstream.Timeout = 900 * time.Millisecond
	}
	if s.tracer == nil {
		s.tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(b.spans))
	}
	if s.meter == nil {
		s.meter = metricnoop.NewMeterProvider()
	}
	if s.caller == nil {
		s.caller = func(o caller.Origin) *caller.Caller { return &caller.Caller{Origin: o, Comm: "test", Complete: true} }
	}
	logger := slog.New(slog.NewJSONHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.reporter, err = report.New(report.Options{
		Logger:         logger,
		TracerProvider: s.tracer,
		MeterProvider:  s.meter,
		Tracing:        true,
		Dropped:        func(signal string) { b.drops.Store(signal, true) },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.proxy, err = New(Options{
		Lookup:        lookup,
		Caller:        s.caller,
		Policy:        s.policy,
		Limits:        s.limits,
		Upstream:      s.upstream,
		Reporter:      b.reporter,
		Logger:        logger,
		MeterProvider: s.meter,
	})
	if err != nil {
		t.Fatal(err)
	}
	front := listen(t)
	b.addr = front.Addr().String()
	served := make(chan error, 1)
	go func() { served <- b.proxy.Serve(front) }()
	t.Cleanup(func() {
		b.stop(t)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return b
}

func (s setup) lookup(accepted net.Conn) (caller.Peer, error) {
	if s.unknown {
		return caller.Peer{}, errors.New("no record")
	}
	if s.peer != nil {
		return *s.peer, nil
	}
	return caller.Peer{
		OwnNetNS: true,
		Origin:   caller.Origin{PID: 4242, Started: time.Hour},
		Original: netip.MustParseAddrPort("169.254.169.254:80"),
	}, nil
}

// stop waits until every call is reported.
func (b *bridge) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := b.proxy.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := b.reporter.Close(ctx); err != nil {
		t.Errorf("close the reporter: %v", err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// send writes raw bytes to addr and returns all that comes back until the other end closes.
func send(t *testing.T, addr, raw string) string {
	t.Helper()
	answer, err := trySend(addr, raw, 5*time.Second)
	if err != nil {
		t.Fatalf("send %q: %v (got %q)", raw, err, answer)
	}
	return answer
}

func trySend(addr, raw string, patience time.Duration) (string, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, raw); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	return string(answer), err
}

// get is a minimal GET, as curl sends it.
func get(path string, headers ...string) string { return ask("GET", path, headers...) }

func ask(method, path string, headers ...string) string {
	head := append([]string{method + " " + path + " HTTP/1.1", "Host: 169.254.169.254", "User-Agent: curl/7.88.1", "Accept: */*"}, headers...)
	return strings.Join(head, "\r\n") + "\r\n\r\n"
}

func statusOf(answer string) string {
	_, rest, _ := strings.Cut(answer, " ")
	if len(rest) < 3 {
		return ""
	}
	return rest[:3]
}

// token asks the simulator itself for a session token.
func (b *bridge) token(t *testing.T) string {
	t.Helper()
	answer := send(t, b.imdsAddr, ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60", "Content-Length: 0", "Connection: close"))
	_, token, ok := strings.Cut(answer, "\r\n\r\n")
	if !ok || statusOf(answer) != "200" {
		t.Fatalf("token request: %q", answer)
	}
	return token
}

// lines collects a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// calls are the lines about calls.
func (l *lines) calls(t *testing.T) (calls []map[string]any) {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if m["msg"] == "imds call" {
			calls = append(calls, m)
		}
	}
	return calls
}

func readRequest(c net.Conn) (*http.Request, error) { return http.ReadRequest(bufio.NewReader(c)) }
