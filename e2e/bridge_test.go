package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bridge is a process of `imds-bridge run` on the host of an instance.
type bridge struct {
	cmd    *exec.Cmd
	admin  string // unix socket
	exited chan struct{}
	once   sync.Once

	mu    sync.Mutex
	lines []string // of standard error
}

// bridgeOptions are what a test has to say; the rest is as a user would leave it.
type bridgeOptions struct {
	flags  []string
	env    []string
	cgroup string // to attach to; that of the lab's workload if empty
	// account is the directory of a service account's files, which the bridge sees where a pod has them.
	account string
}

// startBridge runs the bridge until it is ready. At the end of the test it is stopped, and must have
// said nothing that is not a JSON line, nor an error.
func (i *instance) startBridge(t *testing.T, o bridgeOptions) *bridge {
	t.Helper()
	b := i.launchBridge(t, o)
	t.Cleanup(func() {
		b.stop(t)
		if t.Failed() {
			t.Logf("the end of the bridge's log:\n%s", b.end())
		}
	})
	await(t, "bridge ready", 10*time.Second, func() bool {
		select {
		case <-b.exited:
			t.Fatalf("the bridge ended: %s", b.cmd.ProcessState)
		default:
		}
		status, _ := b.get("/readyz")
		return status == http.StatusOK
	})
	return b
}

func (i *instance) launchBridge(t *testing.T, o bridgeOptions) *bridge {
	t.Helper()
	if o.cgroup == "" {
		o.cgroup = i.Cgroup()
	}
	dir, err := os.MkdirTemp(scratch, "bridge") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{admin: filepath.Join(dir, "admin.sock"), exited: make(chan struct{})}
	b.cmd = command(t, append([]string{"run", "--redirect.cgroup=" + o.cgroup, "--admin.listen=unix:" + b.admin, "--log.level=debug"}, o.flags...)...)
	b.cmd.Env = append(b.cmd.Env, "RUNTIME_DIRECTORY="+i.runtime)
	b.cmd.Env = append(b.cmd.Env, o.env...)
	if o.account != "" {
		giveAccount(b.cmd, o.account)
	}
	stderr, writer, err := os.Pipe() // of its own, so that Wait does not close it
	if err != nil {
		t.Fatal(err)
	}
	b.cmd.Stdout, b.cmd.Stderr = writer, writer
	if err := i.Host().Start(b.cmd); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	go func() {
		b.read(stderr)
		stderr.Close()
		_ = b.cmd.Wait() // how it ended is in ProcessState
		close(b.exited)
	}()
	return b
}

// giveAccount has a command see a service account's files, in a mount namespace of its own.
func giveAccount(cmd *exec.Cmd, directory string) {
	const script = `d=/run/secrets/kubernetes.io/serviceaccount
mount -t tmpfs tmpfs /run && mkdir -p $d && mount --bind "$0" $d && exec "$@"`
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", script, directory}, cmd.Args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
}

// command is one of the binary, in an environment that holds nothing of this one's.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	dir, err := coverage()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + dir}
	return cmd
}

func (b *bridge) read(stderr io.Reader) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		b.mu.Lock()
		b.lines = append(b.lines, lines.Text())
		b.mu.Unlock()
	}
}

// terminate tells the bridge to end, as systemd does: once.
func (b *bridge) terminate() {
	b.once.Do(func() { _ = b.cmd.Process.Signal(syscall.SIGTERM) }) // it may have ended before
}

// stop terminates the bridge and waits for its end.
func (b *bridge) stop(t *testing.T) {
	t.Helper()
	b.terminate()
	select {
	case <-b.exited:
	case <-time.After(15 * time.Second):
		_ = b.cmd.Process.Signal(syscall.SIGQUIT) // it says where it is stuck
		<-b.exited
		t.Errorf("SIGTERM did not end the bridge; its goroutines:\n%s", strings.Join(b.log(), "\n"))
		return
	}
	if status := b.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() == syscall.SIGKILL {
		return // by the test
	}
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the bridge ended with %s", b.cmd.ProcessState)
	}
	for _, line := range b.records(t) {
		if line.Level == "ERROR" {
			t.Errorf("the bridge logged an error: %s", line.raw)
		}
	}
}

func (b *bridge) log() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.lines)
}

// end is of the log what shows beside other output: the last lines, and of each what comes before the
// caller's ancestors.
func (b *bridge) end() string {
	lines := b.log()
	lines = lines[max(0, len(lines)-10):]
	for n, line := range lines {
		lines[n] = line[:min(len(line), 300)]
	}
	return strings.Join(lines, "\n")
}

// record is a line of the bridge's log.
type record struct {
	Level, Msg string

	Version, Method, Path, Route, Verdict, Reason string

	Upgraded  bool
	Status    int
	UserAgent string `json:"user_agent"`
	Caller    struct {
		PID, PPID        int
		Comm, Exe        string
		Args             []string
		UID, GID         int
		User             string
		ContainerID      string `json:"container_id"`
		ContainerRuntime string `json:"container_runtime"`
		HostNetwork      bool   `json:"host_network"`
		Complete         bool
		Ancestors        []struct {
			PID  int
			Comm string
			Exe  string
		}
	}

	raw string
}

// records returns the lines so far. Each must be JSON.
func (b *bridge) records(t *testing.T) (records []record) {
	t.Helper()
	for _, line := range b.log() {
		r := record{raw: line}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Errorf("a line of the log is not JSON: %q", line)
		}
		records = append(records, r)
	}
	return records
}

// calls waits until the log tells of n calls or more by a caller, and returns those lines.
func (b *bridge) calls(t *testing.T, n int, by func(record) bool) []record {
	t.Helper()
	var calls []record
	await(t, "log lines of calls", 5*time.Second, func() bool {
		calls = slices.DeleteFunc(b.records(t), func(r record) bool { return r.Msg != "imds call" || !by(r) })
		return len(calls) >= n
	})
	return calls
}

func pid(p int) func(record) bool { return func(r record) bool { return r.Caller.PID == p } }

// get asks the admin listener. The status is 0 if it does not answer.
func (b *bridge) get(path string) (status int, body string) {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", b.admin)
		},
	}}
	answer, err := client.Get("http://localhost" + path)
	if err != nil {
		return 0, ""
	}
	defer answer.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(answer.Body); err != nil && !errors.Is(err, io.EOF) {
		return 0, ""
	}
	return answer.StatusCode, text.String()
}
