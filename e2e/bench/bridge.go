package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const adminAddr = "127.0.0.1:8255"

// What brings calls to a bridge.
const (
	byHook  = "ebpf"
	byRules = "iptables"
	byNone  = "none" // it only watches
)

// bridge is the real binary, run as an operator runs it: v1 calls are upgraded, logged and traced.
type bridge struct {
	place    *place
	cmd      *exec.Cmd
	log      *os.File
	admin    *http.Client
	ended    chan error
	notified <-chan time.Time // when it told systemd that it was ready
	started  time.Time
	ready    time.Time // when /readyz said so
}

// bridge starts one. A place has no more than one at a time.
func (p *place) bridge(program, redirector string) (_ *bridge, err error) {
	b := &bridge{place: p, ended: make(chan error, 1), admin: &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{DialContext: p.lab.Host().DialContext, DisableKeepAlives: true},
	}}
	if b.log, err = os.OpenFile(filepath.Join(p.dir, "bridge.log"), os.O_CREATE|os.O_TRUNC|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		return nil, fmt.Errorf("open the bridge's log: %w", err)
	}
	socket, err := b.listenForNotice()
	if err != nil {
		return nil, err
	}
	args := []string{
		"run", "--redirector=" + redirector, "--redirect.cgroup=" + p.lab.Cgroup(),
		"--mode=upgrade", "--containers.v1=upgrade", "--admin.listen=" + adminAddr,
	}
	if !p.lab.HasIPv6() {
		args = append(args, "--redirect.listen6=")
	}
	b.cmd = exec.Command(program, args...)
	b.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"NOTIFY_SOCKET=" + socket,
		"OTEL_TRACES_EXPORTER=otlp",
		"OTEL_METRICS_EXPORTER=none",
		"OTEL_LOGS_EXPORTER=none",
		"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + collectorAddr,
	}
	b.cmd.Stderr = b.log
	b.started = time.Now()
	if err := p.lab.Host().Start(b.cmd); err != nil {
		return nil, fmt.Errorf("start the bridge: %w", err)
	}
	go func() { b.ended <- b.cmd.Wait() }()
	return b, b.awaitReady()
}

// listenForNotice stands in for systemd. It returns the value of NOTIFY_SOCKET.
func (b *bridge) listenForNotice() (string, error) {
	socket := filepath.Join(b.place.dir, "notify")
	os.Remove(socket) // of an earlier start
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return "", fmt.Errorf("listen as systemd does: %w", err)
	}
	notified := make(chan time.Time, 1)
	b.notified = notified
	go func() {
		defer l.Close()
		buf := make([]byte, 1024)
		for {
			n, err := l.Read(buf)
			if err != nil {
				return
			}
			if bytes.Contains(buf[:n], []byte("READY=1")) {
				notified <- time.Now()
				return
			}
		}
	}()
	return socket, nil
}

func (b *bridge) awaitReady() error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		resp, err := b.admin.Get("http://" + adminAddr + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				b.ready = time.Now()
				return nil
			}
		}
		select {
		case err := <-b.ended:
			return fmt.Errorf("the bridge ended: %w: %s", err, b.lastLine())
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the bridge is not ready after ten seconds: %s", b.lastLine())
		}
	}
}

func (b *bridge) lastLine() string {
	text, _ := os.ReadFile(b.log.Name())
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// complaint is the last line of the log that is a warning, or worse.
func (b *bridge) complaint() (last string) {
	text, _ := os.ReadFile(b.log.Name())
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, `"level":"INFO"`) {
			last = strings.TrimSpace(line)
		}
	}
	return last
}

// stop ends the bridge as systemd does.
func (b *bridge) stop() error {
	defer b.log.Close()
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the bridge: %w", err)
	}
	select {
	case err := <-b.ended:
		return err
	case <-time.After(10 * time.Second):
		return errors.Join(errors.New("the bridge does not stop"), b.cmd.Process.Kill())
	}
}

// proxy is the bridge to callers on the host.
func (b *bridge) proxy(name string) proxy {
	return proxy{
		name: name, addr: imdsAddr.String(), direct: hostDirect, atOnce: concurrency,
		start: b.place.lab.Host().Start, process: b.cmd.Process, bridge: b,
	}
}

// inContainer is the bridge to callers in the place's container, one call at a time.
func (b *bridge) inContainer(name string) proxy {
	x := b.proxy(name)
	x.start, x.direct, x.atOnce = b.place.container.Start, containerDirect, []int{1}
	return x
}

// takeLines counts the lines of calls in the log, and empties it.
func (b *bridge) takeLines() (lines int, err error) {
	text, err := os.ReadFile(b.log.Name())
	if err != nil {
		return 0, fmt.Errorf("read the bridge's log: %w", err)
	}
	return bytes.Count(text, []byte(`"msg":"imds call"`)), b.log.Truncate(0)
}

// dropped is how much telemetry was lost, as the bridge itself counts it.
func (b *bridge) dropped() (float64, error) { return b.metric("imds_telemetry_dropped_total") }

// metric is the sum of a metric over its attributes.
func (b *bridge) metric(name string) (sum float64, err error) {
	resp, err := b.admin.Get("http://" + adminAddr + "/metrics")
	if err != nil {
		return 0, fmt.Errorf("read the bridge's metrics: %w", err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name); !ok || !strings.HasPrefix(rest, "{") && !strings.HasPrefix(rest, " ") {
			continue
		}
		fields := strings.Fields(lines.Text())
		value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("read the bridge's metrics: %w", err)
		}
		sum += value
	}
	return sum, nil
}

// profile keeps a profile of the bridge.
func (b *bridge) profile(kind, file string) error {
	resp, err := b.admin.Get("http://" + adminAddr + "/debug/pprof/" + kind)
	if err != nil {
		return fmt.Errorf("profile the bridge: %w", err)
	}
	defer resp.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("keep a profile: %w", err)
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
