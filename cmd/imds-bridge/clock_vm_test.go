//go:build vm && !root

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/simulator"
)

const (
	day = 24 * time.Hour
	// tokenLife is that of the bridge's tokens here; it asks for six hours.
	tokenLife = 3 * time.Second
)

// The bridge runs as it comes, on the root of whatever cgroups the machine has.
func TestClockThatJumpsADayFailsNoCall(t *testing.T) {
	i := newVMInstance(t)
	bridge := i.startBridge(t)
	calls := i.stream(t)
	i.expectService(t, "before", calls)
	for _, jump := range []time.Duration{day, -day, -day, day} {
		setClock(t, jump)
		i.expectService(t, fmt.Sprintf("after a jump of %s", jump), calls)
	}
	calls.end(t)
	bridge.end(t)
	c := i.imds.Counts()
	if c.V1 != 0 {
		t.Errorf("%d v1 calls went past the bridge", c.V1)
	}
	// A bridge that took the wall clock for a token's age would learn of its end from IMDS each time.
	if renewed := c.ByStatus[http.StatusUnauthorized]; 2*renewed > i.renewals(c) {
		t.Errorf("IMDS refused %d tokens of the bridge, which fetched %d", renewed, i.renewals(c))
	}
	t.Logf("%d v1 calls, %d v2 calls, %d tokens of the bridge", calls.v1.done(), calls.v2.done(), i.renewals(c))
}

// setClock moves the wall clock. The machine's clock is its own.
func setClock(t *testing.T, by time.Duration) {
	t.Helper()
	to := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &to); err != nil {
		t.Fatal(err)
	}
}

// vmInstance is an EC2 instance: a lab and the metadata service that it reaches.
type vmInstance struct {
	*lab.Lab
	imds *simulator.Simulator
}

func newVMInstance(t *testing.T) *vmInstance {
	t.Helper()
	cgroup, err := redirect.FindCgroup() // which a machine of version 1 alone has nowhere mounted
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cgroup.Close() })
	// Children see this process's mount by its number.
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
	sim, err := simulator.New(simulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	listener, err := l.IMDS().Listen("tcp", "169.254.169.254:80")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := sim.Serve(hastyListener{listener}); err != nil {
			t.Error(err)
		}
	}()
	return &vmInstance{l, sim}
}

// renewals are the tokens that the bridge fetched for itself: each v2 call fetches one more.
func (i *vmInstance) renewals(c simulator.Counts) (n int) {
	n = c.TokensIssued
	for _, r := range i.imds.Requests() {
		if r.Kind == "token" && !strings.Contains(r.Head, hasty) {
			n--
		}
	}
	return n
}

// hastyListener is a metadata service whose tokens live for tokenLife when six hours are asked for.
type hastyListener struct{ net.Listener }

type hastyConn struct{ net.Conn }

// hasty is a life as long on the wire as "21600".
var hasty = fmt.Sprintf("%05d", int(tokenLife.Seconds()))

func (l hastyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return hastyConn{c}, err
}

func (c hastyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	copy(b[:n], bytes.ReplaceAll(b[:n], []byte("21600"), []byte(hasty)))
	return n, err
}
