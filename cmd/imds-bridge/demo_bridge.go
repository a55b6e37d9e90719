package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
)

// The ports are free: the host's namespace is the demo's own.
const (
	demoAdmin = "127.0.0.1:8255"
	demoOTLP  = "127.0.0.1:4318"
)

// demoBridge is this program, run as an operator runs it.
type demoBridge struct {
	cmd    *exec.Cmd
	log    *lineLog
	exited chan struct{}
}

// startBridge starts the bridge on the instance and returns when it says that it is ready.
func startBridge(ctx context.Context, l *lab.Lab, flags ...string) (_ *demoBridge, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	args := []string{"run", "--redirect.cgroup=" + l.Cgroup(), "--admin.listen=" + demoAdmin}
	if !l.HasIPv6() {
		args = append(args, "--redirect.listen6=")
	}
	b := &demoBridge{cmd: exec.Command(self, append(args, flags...)...), log: &lineLog{}, exited: make(chan struct{})}
	b.cmd.Env = bridgeEnv(os.Environ())
	b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
	if err := l.Host().Start(b.cmd); err != nil {
		return nil, fmt.Errorf("start the bridge: %w", err)
	}
	go func() {
		_ = b.cmd.Wait() // how it ended shows in its log
		close(b.exited)
	}()
	if err := b.awaitReady(ctx, l.Host()); err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

// bridgeEnv is the environment without the user's own settings for a bridge and for telemetry, and
// with traces sent to the demo.
func bridgeEnv(environ []string) []string {
	var env []string
	for _, e := range environ {
		if !strings.HasPrefix(e, "IMDS_BRIDGE_") && !strings.HasPrefix(e, "OTEL_") && !strings.HasPrefix(e, "NOTIFY_SOCKET=") {
			env = append(env, e)
		}
	}
	return append(env,
		"OTEL_TRACES_EXPORTER=otlp",
		"OTEL_METRICS_EXPORTER=none",
		"OTEL_LOGS_EXPORTER=none",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://"+demoOTLP,
		"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_BSP_SCHEDULE_DELAY=100",
	)
}

func (b *demoBridge) awaitReady(ctx context.Context, host *lab.Namespace) error {
	client := &http.Client{
		Timeout:   time.Second,
		Transport: &http.Transport{DialContext: host.DialContext, DisableKeepAlives: true},
	}
	return await(ctx, "the bridge to be ready", func() (bool, error) {
		select {
		case <-b.exited:
			return false, fmt.Errorf("the bridge ended before it was ready: %s", b.log.last())
		default:
		}
		resp, err := client.Get("http://" + demoAdmin + "/readyz")
		if err != nil {
			return false, nil // not listening yet
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, nil
	})
}

// stop asks the bridge to end, and ends it if it does not within the time it is given.
func (b *demoBridge) stop() {
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-b.exited:
	case <-time.After(3 * time.Second):
		_ = b.cmd.Process.Kill()
		<-b.exited
	}
}

// redirector is what the bridge says brings it the connections.
func (b *demoBridge) redirector() string {
	for _, line := range b.log.all() {
		var l struct {
			Redirector string `json:"redirector"`
		}
		if json.Unmarshal([]byte(line), &l) == nil && l.Redirector != "" {
			return l.Redirector
		}
	}
	return ""
}

// demoCaller is the caller as the bridge's log line names it.
type demoCaller struct {
	PID       int            `json:"pid"`
	Exe       string         `json:"exe"`
	Comm      string         `json:"comm"`
	UID       int            `json:"uid"`
	Ancestors []demoAncestor `json:"ancestors"`

	user      string
	container string
}

type demoAncestor struct {
	PID  int    `json:"pid"`
	Comm string `json:"comm"`
	Exe  string `json:"exe"`
}

// callLine is the bridge's log line about one call.
type callLine struct {
	Caller demoCaller
	raw    string
}

// lineOf waits for the line about a call of a process.
func (b *demoBridge) lineOf(ctx context.Context, pid int) (callLine, error) {
	var found callLine
	err := await(ctx, "the bridge's log line", func() (bool, error) {
		for _, raw := range b.log.all() {
			if line, ok := parseCallLine(raw); ok && line.Caller.PID == pid {
				found = line
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return callLine{}, fmt.Errorf("%w; its last one is: %s", err, b.log.last())
	}
	return found, nil
}

// parseCallLine reads a log line of the bridge, and is false for one that is not about a call.
func parseCallLine(raw string) (callLine, bool) {
	var l struct {
		Caller *struct {
			demoCaller
			User        string `json:"user"`
			ContainerID string `json:"container_id"`
		} `json:"caller"`
	}
	if json.Unmarshal([]byte(raw), &l) != nil || l.Caller == nil {
		return callLine{}, false
	}
	c := l.Caller.demoCaller
	c.user, c.container = l.Caller.User, l.Caller.ContainerID
	return callLine{Caller: c, raw: raw}, true
}

// await asks until the answer is yes. It gives up with an error of ask, or after five seconds.
func await(ctx context.Context, what string, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Second, errors.New("waited five seconds in vain"))
	defer cancel()
	for {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
}

// lineLog keeps the lines written to it. It is safe for concurrent use.
type lineLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lineLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// all returns the whole lines so far.
func (l *lineLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(l.text.String(), "\n")
	return lines[:len(lines)-1]
}

func (l *lineLog) last() string {
	if lines := l.all(); len(lines) > 0 {
		return lines[len(lines)-1]
	}
	return "it said nothing"
}
