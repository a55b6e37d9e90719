//go:build vm && !root

package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	day = 24 * time.Hour
	// served is how long calls are made between two jumps: longer than the bridge's token lives here.
	served = tokenLife + 2*time.Second
)

// The bridge runs as it comes, on the root of whatever cgroups the machine has.
func TestClockThatJumpsADayFailsNoCall(t *testing.T) { failNoCall(t) }

// A clock is no reason to refuse calls either.
func TestClockThatJumpsADayRefusesNoCall(t *testing.T) {
	failNoCall(t, "--fail=closed")
	cleanup := exec.Command("/proc/self/exe", "cleanup")
	cleanup.Env = []string{bridgeRole + "=1", "PATH=" + os.Getenv("PATH")}
	if said, err := cleanup.CombinedOutput(); err != nil {
		t.Errorf("cleanup: %v, %s", err, said)
	}
}

func failNoCall(t *testing.T, flags ...string) {
	t.Helper()
	i := newVMInstance(t)
	stop := i.startBridge(t, flags...)
	calls := i.stream(t)
	calls.expectService(t, "before")
	back := 0
	for _, jump := range []time.Duration{day, -day, -day} {
		setClock(t, jump)
		if jump < 0 {
			back++
		}
		calls.expectService(t, fmt.Sprintf("after a jump of %s", jump))
	}
	calls.end()
	stop()
	c, tokens := i.imds.Counts(), i.tokens.Load()
	t.Logf("%d v1 calls, %d v2 calls, %d tokens of the bridge, %v", calls.v1.Load(), calls.v2.Load(), tokens, c.ByStatus)
	if c.V1 != 0 {
		t.Errorf("%d v1 calls went past the bridge", c.V1)
	}
	// A bridge that took a token's age from this clock would think it young after each jump back, and
	// learn of its end by IMDS's refusal. One may come from a renewal that took its time.
	if refused := c.ByStatus[http.StatusUnauthorized]; refused >= back {
		t.Errorf("IMDS refused %d tokens, with the clock set back %d times", refused, back)
	}
}

// setClock moves the wall clock. The machine is made for that.
func setClock(t *testing.T, by time.Duration) {
	t.Helper()
	to := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &to); err != nil {
		t.Fatal(err)
	}
}

// stream is two workloads, one with v1 calls and one with v2 calls, each call on its own connection.
type stream struct {
	i      *vmInstance
	t      *testing.T
	v1, v2 atomic.Int64 // calls that were answered
	ended  chan struct{}
	all    sync.WaitGroup
}

// stream starts the workloads. A call that fails fails the test.
func (i *vmInstance) stream(t *testing.T) *stream {
	s := &stream{i: i, t: t, ended: make(chan struct{})}
	s.all.Go(func() { s.repeat(&s.v1, s.callV1) })
	s.all.Go(func() { s.repeat(&s.v2, s.callV2) })
	t.Cleanup(s.end)
	return s
}

func (s *stream) end() {
	select {
	case <-s.ended:
	default:
		close(s.ended)
	}
	s.all.Wait()
}

func (s *stream) repeat(answered *atomic.Int64, call func() error) {
	for {
		if err := call(); err != nil {
			s.t.Error(err)
		} else {
			answered.Add(1)
		}
		select {
		case <-s.ended:
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// expectService waits while calls are made, and wants some of each kind, and a token that was renewed.
func (s *stream) expectService(t *testing.T, when string) {
	t.Helper()
	v1, v2, tokens := s.v1.Load(), s.v2.Load(), s.i.tokens.Load()
	time.Sleep(served)
	if s.v1.Load() < v1+5 || s.v2.Load() < v2+5 {
		t.Errorf("%s: %d v1 calls and %d v2 calls in %s", when, s.v1.Load()-v1, s.v2.Load()-v2, served)
	}
	if s.i.tokens.Load() == tokens {
		t.Errorf("%s: the bridge fetched no token in %s", when, served)
	}
}

func (s *stream) callV1() error {
	_, err := s.i.call(http.MethodGet, "/latest/meta-data/instance-id", "")
	return err
}

func (s *stream) callV2() error {
	token, err := s.i.call(http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60")
	if err != nil {
		return err
	}
	_, err = s.i.call(http.MethodGet, "/latest/meta-data/instance-id", "X-aws-ec2-metadata-token: "+token)
	return err
}

// call makes one call from the instance, which the hook sees like any other's.
func (i *vmInstance) call(method, path, header string) (body string, err error) {
	request, err := http.NewRequest(method, "http://169.254.169.254"+path, nil)
	if err != nil {
		return "", err
	}
	if name, value, ok := strings.Cut(header, ": "); ok {
		request.Header.Set(name, value)
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: i.Host().DialContext}}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s: %s, %v", method, path, answer.Status, err)
	}
	return string(text), nil
}
