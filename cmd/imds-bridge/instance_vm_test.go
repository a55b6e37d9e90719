//go:build vm && !root

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/simulator"
)

// patience is how long a test waits for what must happen: the machine is slow.
const patience = 30 * time.Second

// vmInstance is an EC2 instance: a lab and the metadata service that it reaches.
type vmInstance struct {
	*lab.Lab
	imds   *simulator.Simulator
	tokens atomic.Int64 // that the bridge fetched for itself
}

func newVMInstance(t *testing.T) *vmInstance {
	t.Helper()
	cgroup, err := redirect.FindCgroup() // mounted for us alone where the machine has version 1 only
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cgroup.Close() })
	// For children too.
	parent := strings.Replace(cgroup.Path, "/proc/self/", fmt.Sprintf("/proc/%d/", os.Getpid()), 1)
	l, err := lab.New(lab.Options{Parent: parent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	imds, err := simulator.New(simulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { imds.Close() })
	listener, err := l.IMDS().Listen("tcp", "169.254.169.254:80")
	if err != nil {
		t.Fatal(err)
	}
	i := &vmInstance{Lab: l, imds: imds}
	go func() {
		if err := imds.Serve(hastyListener{listener, &i.tokens}); err != nil {
			t.Error(err)
		}
	}()
	return i
}

// tokenLife is that of the bridge's tokens here. It asks for six hours.
const tokenLife = 5 * time.Second

// hastyListener makes the service one whose tokens live for tokenLife when six hours are asked for.
type hastyListener struct {
	net.Listener
	tokens *atomic.Int64 // counts them
}

func (l hastyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return hastyConn{c.(*net.TCPConn), l.tokens}, nil
}

type hastyConn struct {
	*net.TCPConn
	tokens *atomic.Int64
}

func (c hastyConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if at := bytes.Index(b[:n], []byte("21600")); at >= 0 {
		copy(b[at:], fmt.Sprintf("%05d", int(tokenLife.Seconds())))
		c.tokens.Add(1)
	}
	return n, err
}

// startBridge runs imds-bridge on the instance until stop is called, which expects a good end.
func (i *vmInstance) startBridge(t *testing.T, flags ...string) (stop func()) {
	t.Helper()
	bridge := exec.Command("/proc/self/exe", append([]string{"run", "--redirector=ebpf", "--redirect.listen6=", "--admin.listen=",
		"--redirect.heartbeat=10s", "--upstream.timeout=10s"}, flags...)...) // of a slow machine
	bridge.Env = []string{bridgeRole + "=1", "PATH=" + os.Getenv("PATH")}
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	bridge.Stdout, bridge.Stderr = log, log
	said := func() string {
		text, _ := os.ReadFile(log.Name())
		return string(text)
	}
	if err := i.Host().Start(bridge); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !strings.Contains(said(), `"msg":"ready"`); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the bridge is not ready: %s", said())
		}
	}
	return func() {
		t.Helper()
		if err := bridge.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := bridge.Wait(); err != nil || strings.Contains(said(), `"level":"ERROR"`) {
			t.Errorf("the bridge ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the bridge said: %s", said())
		}
	}
}
