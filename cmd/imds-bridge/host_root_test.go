//go:build root

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/handover"
	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/simulator"
)

// A child of this binary that is called as the program is the program.
func init() {
	if len(os.Args) > 1 && (os.Args[1] == "run" || os.Args[1] == selfCheckVerb) {
		main()
	}
}

// callsRole makes a child of this binary a workload that calls IMDS until its input ends.
const callsRole = "IMDS_BRIDGE_TEST_CALLS"

func init() {
	if os.Getenv(callsRole) == "" {
		return
	}
	if err := json.NewEncoder(os.Stdout).Encode(callUntil(os.Stdin)); err != nil {
		panic(err)
	}
	os.Exit(0)
}

// callCounts are what became of the calls of a workload.
type callCounts struct {
	Calls, Failed int
	Errors        []string // the first ones
	Slowest       time.Duration
}

const fewCalls = 20

// callUntil makes v1 and v2 calls in turn, each on a connection of its own and with the patience of an
// SDK, until in ends, and at least a few.
func callUntil(in io.Reader) (c callCounts) {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(ended)
	}()
	for {
		select {
		case <-ended:
			if c.Calls >= fewCalls {
				return c
			}
		default:
		}
		for _, call := range []func() error{callV1, callV2} {
			start := time.Now()
			err := call()
			c.Slowest = max(c.Slowest, time.Since(start))
			c.Calls++
			if err != nil {
				c.Failed++
				if len(c.Errors) < 5 {
					c.Errors = append(c.Errors, err.Error())
				}
			}
		}
	}
}

func callV1() error {
	_, err := callIMDS(http.MethodGet, "meta-data/instance-id", "", "")
	return err
}

func callV2() error {
	token, err := callIMDS(http.MethodPut, "api/token", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
	if err == nil {
		_, err = callIMDS(http.MethodGet, "meta-data/instance-id", "X-Aws-Ec2-Metadata-Token", token)
	}
	return err
}

func callIMDS(method, path, name, value string) (string, error) {
	request, err := http.NewRequest(method, "http://169.254.169.254/latest/"+path, nil)
	if err != nil {
		return "", err
	}
	if name != "" {
		request.Header.Set(name, value)
	}
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return string(body), err
}

// host is an instance whose metadata service requires tokens, and where bridges are started.
type host struct {
	*lab.Lab
	dir   string   // the runtime directory
	enter []string // what bridges are started with: a command that executes its arguments
}

func newHost(t *testing.T) *host {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	imds, err := simulator.New(simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { imds.Close() })
	listener, err := l.IMDS().Listen("tcp", "169.254.169.254:80")
	if err != nil {
		t.Fatal(err)
	}
	go imds.Serve(listener)
	dir, err := os.MkdirTemp("", "imds-bridge") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &host{Lab: l, dir: dir}
}

// begin begins a takeover from the bridge that runs.
func (h *host) begin() (*handover.Takeover, error) {
	sockets, err := filepath.Glob(filepath.Join(h.dir, "control-*.sock"))
	if err != nil || len(sockets) != 1 {
		return nil, handover.ErrNobody
	}
	return handover.Begin(sockets[0], "test")
}

// bridgeProcess is a bridge, and what it has logged so far.
type bridgeProcess struct {
	*exec.Cmd
	ended chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

// start starts a bridge, which is killed at the end of the test if it still runs.
func (h *host) start(t *testing.T, flags ...string) *bridgeProcess {
	t.Helper()
	b := &bridgeProcess{ended: make(chan struct{})}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := slices.Concat(h.enter, []string{program, "run", "--redirect.cgroup=" + h.Cgroup()}, flags)
	b.Cmd = exec.Command(args[0], args[1:]...)
	b.Env = []string{"RUNTIME_DIRECTORY=" + h.dir}
	stderr, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b.Stderr = writer
	if err := h.Host().Start(b.Cmd); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	go func() {
		defer stderr.Close()
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if strings.Contains(lines.Text(), `"msg":"imds call"`) {
				continue
			}
			b.mu.Lock()
			b.log.WriteString(lines.Text() + "\n")
			b.mu.Unlock()
		}
		_ = b.Wait() // how it ended is in ProcessState
		close(b.ended)
	}()
	t.Cleanup(func() {
		_ = b.Process.Kill()
		<-b.ended
		if t.Failed() {
			t.Logf("process %d:\n%s", b.Process.Pid, &b.log)
		}
	})
	return b
}

func (b *bridgeProcess) logged() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

// says waits until the bridge logs something.
func (b *bridgeProcess) says(t *testing.T, what string) {
	t.Helper()
	eventually(t, fmt.Sprintf("process %d says %q", b.Process.Pid, what), func() bool { return strings.Contains(b.logged(), what) })
}

func (b *bridgeProcess) isReady(t *testing.T) {
	t.Helper()
	b.says(t, `"msg":"ready"`)
}

// ends waits until the bridge ends by itself, with an exit code.
func (b *bridgeProcess) ends(t *testing.T, code int) {
	t.Helper()
	select {
	case <-b.ended:
	case <-time.After(10 * time.Second):
		t.Fatalf("process %d does not end", b.Process.Pid)
	}
	if got := b.ProcessState.ExitCode(); got != code {
		t.Errorf("process %d ended with %s, want exit code %d", b.Process.Pid, b.ProcessState, code)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// calls starts a stream of calls, and returns what ends it.
func (h *host) calls(t *testing.T) (stop func() callCounts) {
	t.Helper()
	workload := exec.Command("/proc/self/exe")
	workload.Env = []string{callsRole + "=1"}
	var out bytes.Buffer
	workload.Stdout, workload.Stderr = &out, os.Stderr
	in, err := workload.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Host().Start(workload); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return func() (c callCounts) {
		t.Helper()
		in.Close()
		if err := workload.Wait(); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d calls, the slowest took %s", c.Calls, c.Slowest)
		return c
	}
}

// expectAll fails the test unless each of a stream of calls succeeded.
func expectAll(t *testing.T, c callCounts) {
	t.Helper()
	if c.Failed > 0 || c.Calls < fewCalls {
		t.Errorf("%d of %d calls failed, among them %q", c.Failed, c.Calls, c.Errors)
	}
}

// expectServing makes a few calls.
func (h *host) expectServing(t *testing.T) {
	t.Helper()
	expectAll(t, h.calls(t)())
}

// leftover says what cleanup finds of the listener's address.
func (h *host) leftover(t *testing.T) (what redirect.Leftover) {
	t.Helper()
	if err := h.Host().Do(func() (err error) {
		what, err = redirect.RemoveLeftover(config.Default().Redirect.Listen)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return what
}

// readiness is what the admin listener says.
func (h *host) readiness() int {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: h.Host().DialContext}}
	answer, err := client.Get("http://127.0.0.1:8255/readyz")
	if err != nil {
		return 0
	}
	answer.Body.Close()
	return answer.StatusCode
}
