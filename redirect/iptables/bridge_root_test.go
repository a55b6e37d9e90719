//go:build root

package iptables

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/owner"
)

func init() { roles["bridge"] = beBridge }

// bridgeTask is a bridge in a process of its own, for tests that kill it.
type bridgeTask struct {
	Backend   string
	Closed    bool
	Heartbeat time.Duration
	Port      uint16 // 0 is the usual one
	Dumb      bool   // it starts the guard and asks for nothing
	Locks     time.Duration
}

// told is what the bridge says after each thing that it was asked to do.
type told struct {
	Error     string
	Report    Report
	Leftovers Leftovers
	Guard     int // pid
}

type child struct {
	*process
	told
}

// startBridge starts a bridge and waits until its rules are in place, or are not.
func startBridge(t testing.TB, l *lab.Lab, task bridgeTask, change ...func(*exec.Cmd)) *child {
	t.Helper()
	if task.Heartbeat == 0 {
		task.Heartbeat = 500 * time.Millisecond
	}
	// Outside of the lab's care: that it leaves no guard behind is what is tested.
	c := &child{process: startRole(t, l.Host().Start, "bridge", task, change...)}
	c.read(t, &c.told)
	return c
}

// do asks the bridge for something: settle, detach, or close.
func (c *child) do(t testing.TB, what string) (a told) {
	t.Helper()
	if _, err := fmt.Fprintln(c.in, what); err != nil {
		t.Fatal(err)
	}
	c.read(t, &a)
	return a
}

func (c *child) kill(t testing.TB, signal unix.Signal) {
	t.Helper()
	if err := unix.Kill(c.cmd.Process.Pid, signal); err != nil {
		t.Fatal(err)
	}
}

// gone waits for the end of a process that is not our child.
func gone(t testing.TB, pid int) {
	t.Helper()
	eventually(t, func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return nil
		}
		return fmt.Errorf("process is still there: %s", stat)
	})
}

func beBridge() error {
	var task bridgeTask
	if err := json.Unmarshal([]byte(os.Getenv(taskVariable)), &task); err != nil {
		return err
	}
	say := json.NewEncoder(os.Stdout)
	o := Options{
		Rules: Rules{
			Tools:  Tools{Backend: task.Backend, LockTimeout: task.Locks},
			Listen: listen4, Listen6: listen6, Containers: true, Mark: mark,
		},
		Guard: func() *exec.Cmd {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), roleVariable+"=guard", "GORACE=atexit_sleep_ms=0")
			cmd.Stderr = os.Stderr
			return cmd
		},
		Heartbeat:  task.Heartbeat,
		FailClosed: task.Closed,
	}
	if task.Port != 0 {
		o.Listen, o.Listen6 = netip.AddrPortFrom(listen4.Addr(), task.Port), netip.AddrPort{}
	}
	var err error
	if o.Owners, err = owner.New(owner.Options{}); err != nil {
		return err
	}
	if task.Dumb {
		r := &Redirector{ended: make(chan struct{})}
		if err := r.startGuard(o.Guard()); err != nil {
			return err
		}
		_ = say.Encode(told{Guard: r.cmd.Process.Pid})
		select {}
	}
	r, err := Attach(o)
	if err != nil {
		return say.Encode(told{Error: err.Error()})
	}
	if err := serveBriefly(o, r); err != nil {
		return err
	}
	if err := say.Encode(told{Report: r.Report(), Guard: r.cmd.Process.Pid}); err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		a := told{}
		switch lines.Text() {
		case "settle":
			a.Leftovers, err = r.Settle()
		case "detach":
			err = r.Detach()
		case "close":
			err = r.Close()
		case "beat":
			err = r.Beat()
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := say.Encode(a); err != nil {
			return err
		}
	}
	return r.Close()
}

// serveBriefly answers every call with "bridge", and beats. It listens after the rules are in place,
// unlike the real one, to keep addresses out of what is tested when they are not.
func serveBriefly(o Options, r *Redirector) error {
	for _, at := range []netip.AddrPort{o.Listen, o.Listen6} {
		if !at.IsValid() {
			continue
		}
		l, err := redirect.Listen(context.Background(), at)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if _, err := r.Lookup(c); err == nil {
					fmt.Fprint(c, "bridge")
				}
				c.Close()
			}
		}()
	}
	go func() {
		for {
			_ = r.Beat()
			time.Sleep(o.Heartbeat / 4)
		}
	}()
	return nil
}

// answers lets a client make a call every few milliseconds, and waits for one that is answered as given. It
// returns how long that took.
func answers(t testing.TB, in *lab.Namespace, to netip.AddrPort, want string) time.Duration {
	t.Helper()
	began := time.Now()
	client := startCalls(t, in, call{To: to, Times: 10000, Every: 2 * time.Millisecond})
	defer func() { _ = client.cmd.Process.Kill() }()
	for {
		s := client.next(t)
		if s.Answer == want || s.Error == want {
			return s.Began.Sub(began)
		}
		if time.Since(began) > patience {
			t.Fatalf("%s: the last of many answers is %q, error %q", to, s.Answer, s.Error)
		}
	}
}

// watch lets a client make calls until f returns, and returns them.
func watch(t testing.TB, in *lab.Namespace, to netip.AddrPort, f func()) (seen []sighting) {
	t.Helper()
	client := startCalls(t, in, call{To: to, Times: 100000, Every: 2 * time.Millisecond})
	seen = append(seen, client.next(t))
	done := make(chan time.Time)
	go func() { f(); done <- time.Now() }()
	var ended time.Time
	for {
		select {
		case ended = <-done:
		default:
		}
		s := client.next(t)
		seen = append(seen, s)
		if !ended.IsZero() && s.Began.After(ended) {
			_ = client.cmd.Process.Kill()
			return seen
		}
	}
}
