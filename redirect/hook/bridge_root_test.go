//go:build root

package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

func init() { roles["bridge"] = beBridge }

// bridgeTask is what a bridge in a process of its own does.
type bridgeTask struct {
	Bound    []string // drop all other capabilities first, for good
	Cgroup   string
	Listen   netip.AddrPort
	Upstream string // IMDS, called once on behalf of the first client
	Pins     string // fail closed, and pin the hook there
	Silent   bool   // give no sign of life after the start
}

// started is what it says first.
type started struct {
	Capabilities   uint64 // effective
	Listen, Attach string // errors
}

// served is what it says when it has served one client.
type served struct {
	Record   redirect.Connection
	Answer   string // of IMDS
	HopLimit int
	Counters map[Outcome]uint64
	Error    string
}

// beBridge listens, attaches, serves one client and waits for the end of standard input.
func beBridge() (err error) {
	var task bridgeTask
	if err := json.Unmarshal([]byte(os.Getenv(taskVariable)), &task); err != nil {
		return err
	}
	if task.Bound != nil {
		return restart(task)
	}
	report := json.NewEncoder(os.Stdout)
	first := started{Capabilities: effective()}
	listener, err := redirect.Listen(context.Background(), task.Listen)
	first.Listen = message(err)
	if err == nil {
		defer func() { err = errors.Join(err, listener.Close()) }()
	}
	hook, err := Attach(Options{
		Cgroup: task.Cgroup, Listen: task.Listen, Mark: mark, Heartbeat: forever, Connections: 16,
		FailClosed: task.Pins != "", Pins: task.Pins,
	})
	if err == nil {
		defer func() { err = errors.Join(err, hook.Close()) }()
		if task.Pins != "" {
			err = hook.Pin()
		}
		if task.Silent {
			err = errors.Join(err, hook.objects.Heartbeat.Set(uint64(0)))
		}
	}
	first.Attach = message(err)
	if err := report.Encode(first); err != nil || first.Listen+first.Attach != "" {
		return err
	}
	if task.Upstream != "" {
		s, err := serveOne(hook, listener, task.Upstream)
		s.Error = message(err)
		if err := report.Encode(s); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// restart starts the task anew with no more than the capabilities in task.Bound: the bounding set is
// the limit of what exec gives to root.
func restart(task bridgeTask) error {
	runtime.LockOSThread() // exec leaves this thread alone
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if slices.ContainsFunc(task.Bound, func(name string) bool { return capability(name) == c }) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL {
			return err
		}
	}
	task.Bound = nil
	return execInto(task)
}

func capability(name string) int {
	return map[string]int{
		"CAP_BPF":       unix.CAP_BPF,
		"CAP_NET_ADMIN": unix.CAP_NET_ADMIN,
		"CAP_PERFMON":   unix.CAP_PERFMON,
	}[name]
}

// effective are the capabilities of this process, as a set of bits.
func effective() (set uint64) {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "CapEff:")
	_, _ = fmt.Sscanf(rest, "%x", &set)
	return set
}

// serveOne does for one client what the bridge does with the kernel.
func serveOne(hook *Hook, l net.Listener, upstream string) (s served, err error) {
	if err := hook.Beat(); err != nil {
		return s, err
	}
	client, err := l.Accept()
	if err != nil {
		return s, err
	}
	defer client.Close()
	if s.Record, err = hook.Lookup(client); err != nil {
		return s, err
	}
	if s.Answer, s.HopLimit, err = callIMDS(hook, upstream); err != nil {
		return s, err
	}
	if s.Counters, err = hook.Counters(); err != nil {
		return s, err
	}
	_, err = io.WriteString(client, "bridge")
	return s, err
}

// callIMDS makes a call past the hook and watches the answer's hop limit, from the thread's namespace.
func callIMDS(hook *Hook, to string) (answer string, hops int, err error) {
	var hopLimit func() (int, error)
	dialer := net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) (err error) {
		if inner := c.Control(func(fd uintptr) {
			if err = redirect.Exempt(int(fd), mark); err == nil {
				hopLimit, err = hook.WatchHopLimit(int(fd))
			}
		}); inner != nil {
			return inner
		}
		return err
	}}
	conn, err := dialer.Dial("tcp", to)
	if err != nil {
		return "", 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	heard, err := io.ReadAll(conn)
	if err != nil {
		return "", 0, err
	}
	hops, err = hopLimit()
	return string(heard), hops, err
}
