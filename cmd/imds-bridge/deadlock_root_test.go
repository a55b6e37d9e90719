//go:build root

package main

import (
	"bufio"
	"context"
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

// stuckRole makes a child of this binary a bridge that a signal deadlocks and another frees.
const stuckRole = "IMDS_BRIDGE_TEST_STUCK"

func TestMain(m *testing.M) {
	if cgroup := os.Getenv(stuckRole); cgroup != "" {
		if err := runStuckBridge(cgroup); err != nil {
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
func runStuckBridge(cgroup string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := config.Default()
	c.Redirect.Cgroup, c.Admin.Listen = cgroup, ""
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

	bridge := exec.Command("/proc/self/exe")
	bridge.Env = []string{stuckRole + "=" + l.Cgroup()}
	bridge.Stderr = os.Stderr
	out, err := bridge.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Host().Start(bridge); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	tell := func(s os.Signal, want string) {
		t.Helper()
		if s != nil {
			if err := bridge.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
		if !said.Scan() || said.Text() != want {
			t.Fatalf("the bridge says %q", said.Text())
		}
	}
	tell(nil, "ready")
	expectWay(t, l, imds, "through the bridge")
	for range 3 {
		tell(unix.SIGUSR1, "user defined signal 1")
		time.Sleep(time.Second)
		expectWay(t, l, imds, "straight")
		tell(unix.SIGUSR2, "user defined signal 2")
		time.Sleep(time.Second)
		expectWay(t, l, imds, "through the bridge")
	}
	if err := bridge.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := bridge.Wait(); err != nil {
		t.Error(err)
	}
}

// expectWay makes a v1 call, which IMDS sees as a v2 call when the bridge had it.
func expectWay(t *testing.T, l *lab.Lab, imds *simulator.Simulator, want string) {
	t.Helper()
	before := imds.Counts()
	curl := exec.Command("curl", "-sS", "--max-time", "2", "http://169.254.169.254/latest/meta-data/instance-id")
	var said strings.Builder
	curl.Stdout, curl.Stderr = &said, &said
	if err := l.Host().Start(curl); err != nil {
		t.Fatal(err)
	}
	if err := curl.Wait(); err != nil {
		t.Fatalf("the call failed: %v, %s", err, &said)
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
