//go:build root

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/simulator"
	"github.com/imds-bridge/imds-bridge/telemetry"
)

// stuckRole makes a child of this binary a bridge that a signal deadlocks and another frees. Its value is
// the cgroup; stuckFail is the setting.
const (
	stuckRole = "IMDS_BRIDGE_TEST_STUCK"
	stuckFail = "IMDS_BRIDGE_TEST_STUCK_FAIL"
)

func TestMain(m *testing.M) {
	if cgroup := os.Getenv(stuckRole); cgroup != "" {
		if err := runStuckBridge(cgroup, os.Getenv(stuckFail)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// stuckRedirector is one whose lookups wait for a lock.
type stuckRedirector struct {
	redirector
	lock sync.Mutex
}

func (s *stuckRedirector) Lookup(accepted net.Conn) (redirect.Connection, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.redirector.Lookup(accepted)
}

// runStuckBridge is runBridge with a lock that SIGUSR1 takes and SIGUSR2 gives back.
func runStuckBridge(cgroup, fail string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := config.Default()
	c.Redirect.Cgroup, c.Admin.Listen, c.Fail = cgroup, "", fail
	t, err := telemetry.Start(ctx, telemetry.Options{Level: slog.LevelInfo, Logs: os.Stderr})
	if err != nil {
		return err
	}
	b, err := newBridge(ctx, c, choice{redirector: "ebpf"}, nil, t)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.attach(); err != nil {
		return err
	}
	stuck := &stuckRedirector{redirector: *b.attached.Load()}
	b.isAttached(stuck)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1, unix.SIGUSR2)
	fmt.Println("ready")
	for {
		select {
		case s := <-signals:
			if s == unix.SIGUSR1 {
				stuck.lock.Lock()
			} else {
				stuck.lock.Unlock()
			}
			fmt.Println(s)
		case <-ctx.Done():
			return b.drain()
		}
	}
}

func TestDeadlockedBridgeGetsNoCallsWithinASecond(t *testing.T) {
	t.Parallel()
	l, imds := newInstance(t)
	b := startStuckBridge(t, l, "open")
	expectWay(t, l, imds, "through the bridge")
	for range 3 {
		b.tell(t, unix.SIGUSR1, "user defined signal 1")
		time.Sleep(time.Second)
		expectWay(t, l, imds, "straight")
		b.tell(t, unix.SIGUSR2, "user defined signal 2")
		time.Sleep(time.Second)
		expectWay(t, l, imds, "through the bridge")
	}
	b.end(t)
}

// With fail: closed they are refused instead, and none goes straight at any moment.
func TestDeadlockedBridgeThatFailsClosedRefusesCallsWithinASecond(t *testing.T) {
	t.Parallel()
	l, imds := newInstance(t)
	b := startStuckBridge(t, l, failClosed)
	stop := (&host{Lab: l}).calls(t)
	for range 3 {
		b.tell(t, unix.SIGUSR1, "user defined signal 1")
		time.Sleep(time.Second)
		const cannotConnect = 7 // and not 28, which is for one that has waited
		var refused *exec.ExitError
		if said, err := curlFrom(t, l); !errors.As(err, &refused) || refused.ExitCode() != cannotConnect {
			t.Errorf("not refused at once: %v, %s", err, said)
		}
		b.tell(t, unix.SIGUSR2, "user defined signal 2")
		time.Sleep(time.Second)
		if said, err := curlFrom(t, l); err != nil {
			t.Errorf("the call failed: %v, %s", err, said)
		}
	}
	made := stop()
	if n := imds.Counts().V1; n > 0 || made.Failed == 0 || made.Failed == made.Calls {
		t.Errorf("%d calls went straight; %d of %d failed", n, made.Failed, made.Calls)
	}
	b.end(t)
}

// newInstance is a lab whose metadata service answers v1 calls too.
func newInstance(t *testing.T) (*lab.Lab, *simulator.Simulator) {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	imds, err := simulator.New(simulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { imds.Close() })
	listener, err := l.IMDS().Listen("tcp", "169.254.169.254:80")
	if err != nil {
		t.Fatal(err)
	}
	go imds.Serve(listener)
	return l, imds
}

type stuckBridge struct {
	*exec.Cmd
	said *bufio.Scanner
}

// startStuckBridge starts one in a mount namespace of its own, with a file system for pins.
func startStuckBridge(t *testing.T, l *lab.Lab, fail string) stuckBridge {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b := stuckBridge{Cmd: exec.Command("sh", "-c", `mount -t bpf bpf /sys/fs/bpf && exec "$0"`, program)}
	b.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	b.Env = []string{"PATH=" + os.Getenv("PATH"), stuckRole + "=" + l.Cgroup(), stuckFail + "=" + fail}
	b.Stderr = os.Stderr
	out, err := b.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Host().Start(b.Cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Process.Kill() })
	b.said = bufio.NewScanner(out)
	b.hear(t, "ready")
	return b
}

func (b stuckBridge) tell(t *testing.T, s os.Signal, want string) {
	t.Helper()
	if err := b.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	b.hear(t, want)
}

func (b stuckBridge) hear(t *testing.T, want string) {
	t.Helper()
	if !b.said.Scan() || b.said.Text() != want {
		t.Fatalf("the bridge says %q, want %q", b.said.Text(), want)
	}
}

func (b stuckBridge) end(t *testing.T) {
	t.Helper()
	if err := b.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := b.Wait(); err != nil {
		t.Error(err)
	}
}

// expectWay makes a v1 call, which IMDS sees as a v2 call when the bridge had it.
func expectWay(t *testing.T, l *lab.Lab, imds *simulator.Simulator, want string) {
	t.Helper()
	before := imds.Counts()
	if said, err := curlFrom(t, l); err != nil {
		t.Fatalf("the call failed: %v, %s", err, said)
	}
	after := imds.Counts()
	way := "through the bridge"
	if after.V1 > before.V1 {
		way = "straight"
	}
	if way != want || after.V1+after.V2 != before.V1+before.V2+1 {
		t.Errorf("the call went %s, want %s; IMDS saw %d v1 and %d v2 calls", way, want, after.V1-before.V1, after.V2-before.V2)
	}
}

// curlFrom makes a v1 call from the host.
func curlFrom(t *testing.T, l *lab.Lab) (said string, err error) {
	t.Helper()
	curl := exec.Command("curl", "-sS", "--max-time", "2", "http://169.254.169.254/latest/meta-data/instance-id")
	var out strings.Builder
	curl.Stdout, curl.Stderr = &out, &out
	if err := l.Host().Start(curl); err != nil {
		t.Fatal(err)
	}
	err = curl.Wait()
	return out.String(), err
}
