//go:build root

package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
	"github.com/imds-bridge/imds-bridge/redirect/owner"
	"github.com/imds-bridge/imds-bridge/simulator"
)

const (
	imds4 = "169.254.169.254:80"
	imds6 = "[fd00:ec2::254]:80"

	mark = 0x2069

	// patience is how long a test waits for what must happen. It is spent only by one that fails.
	patience = 30 * time.Second
)

// place is a lab with a simulator in it.
type place struct {
	*lab.Lab
	simulator *simulator.Simulator
}

func newPlace(t testing.TB, behaviour simulator.Behaviour) *place {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &place{Lab: l}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	metadata := simulator.MetadataOptions{HTTPPutResponseHopLimit: 2}
	if p.simulator, err = simulator.New(simulator.Options{Metadata: metadata, Behaviour: behaviour}); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { p.simulator.Close(); serving.Wait() })
	for _, at := range []string{imds4, imds6} {
		listener, err := l.IMDS().Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		serving.Go(func() { _ = p.simulator.Serve(listener) })
	}
	return p
}

// watching is a watch in a place, and what it tells.
type watching struct {
	*Watch
	told chan Exchange
}

// watch attaches to a place, in the host's namespace.
func watch(t testing.TB, p *place, change ...func(*Options)) *watching {
	t.Helper()
	return watchBy(t, p, Attach, change...)
}

func watchBy(t testing.TB, p *place, attach func(Options) (*Watch, error), change ...func(*Options)) *watching {
	t.Helper()
	w := &watching{told: make(chan Exchange, 1<<16)}
	o := Options{Cgroup: p.Cgroup(), Mark: mark, Seen: func(x Exchange) { w.told <- x }}
	for _, f := range change {
		f(&o)
	}
	if err := p.Host().Do(func() (err error) {
		w.Watch, err = attach(o)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// recorded records who connects, as the bridge does with redirector none.
func recorded(t testing.TB, p *place) func(*Options) {
	t.Helper()
	var h *hook.Hook
	if err := p.Host().Do(func() (err error) {
		h, err = hook.Attach(hook.Options{Cgroup: p.Cgroup(), Mark: mark, Heartbeat: time.Hour, Connections: 1024})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return func(o *Options) { o.Sockets = h.Records().Sockets }
}

// found finds who has a socket in /proc.
func found(t testing.TB, p *place) func(*Options) {
	t.Helper()
	var f *owner.Finder
	if err := p.Host().Do(func() (err error) {
		f, err = owner.New(owner.Options{Timeout: patience})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return func(o *Options) {
		o.Owner = func(client, imds netip.AddrPort) (redirect.Connection, error) {
			return f.Find(context.Background(), client, imds)
		}
	}
}

// next waits for an exchange.
func (w *watching) next(t testing.TB) Exchange {
	t.Helper()
	select {
	case x := <-w.told:
		return x
	case <-time.After(patience):
		counters, _ := w.Counters()
		t.Fatalf("nothing was told; %v", counters)
		return Exchange{}
	}
}

// expect waits for exchanges, given as "GET /path 200", and compares them.
func (w *watching) expect(t *testing.T, want ...string) (all []Exchange) {
	t.Helper()
	for _, one := range want {
		x := w.next(t)
		if x.Malformed {
			x.Method, x.Target = "malformed", "-"
		}
		if got := fmt.Sprintf("%s %s %d", x.Method, x.Target, x.Status); got != one {
			t.Errorf("told %q, want %q", got, one)
		}
		all = append(all, x)
	}
	return all
}

// expectNothing compares after the watch's end, when all is told.
func (w *watching) expectNothing(t *testing.T) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for len(w.told) > 0 {
		t.Errorf("told %+v", <-w.told)
	}
}

// expectCounters waits until those given are as given.
func (w *watching) expectCounters(t *testing.T, want map[Count]uint64) {
	t.Helper()
	eventually(t, func() error {
		got, err := w.Counters()
		if err != nil {
			return err
		}
		for name, n := range want {
			if got[name] != n {
				return fmt.Errorf("%s is %d, want %d; all: %v", name, got[name], n, got)
			}
		}
		return nil
	})
}

// eventually waits until f returns nil.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// attached counts the programs on the place's cgroup.
func attached(t *testing.T, p *place) (n int) {
	t.Helper()
	dir, err := os.Open(p.Cgroup())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, where := range []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress} {
		q, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: where})
		if err != nil {
			t.Fatal(err)
		}
		n += len(q.Programs)
	}
	return n
}

// process is a child of the test: this binary in a role.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *os.File
	json *json.Decoder
}

// start lets a process make calls from a namespace, one after the other.
func start(t testing.TB, in *lab.Namespace, calls []call, change ...func(*exec.Cmd)) *process {
	t.Helper()
	return startRole(t, in.Start, "client", calls, change...)
}

// startRole starts this binary in a role, with its task in the environment.
func startRole(t testing.TB, start func(*exec.Cmd) error, role string, task any, change ...func(*exec.Cmd)) *process {
	t.Helper()
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	// Not by its path, which other users cannot reach.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role, taskVariable+"="+string(text),
		"GORACE=atexit_sleep_ms=0") // or the race detector keeps each for a second
	cmd.Stderr = t.Output()
	for _, f := range change {
		f(cmd)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := start(cmd); err != nil {
		t.Fatal(err)
	}
	c := &process{cmd: cmd, in: in, out: out.(*os.File), json: json.NewDecoder(out)}
	t.Cleanup(func() { _ = c.end() })
	return c
}

func as(uid, gid uint32) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	}
}

// next reads what the process saw of its next call, which must have gone well.
func (c *process) next(t testing.TB) (s sighting) {
	t.Helper()
	c.read(t, &s)
	if s.Error != "" {
		t.Fatalf("the client's call: %s", s.Error)
	}
	return s
}

func (c *process) read(t testing.TB, into any) {
	t.Helper()
	if err := c.out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if err := c.json.Decode(into); err != nil {
		t.Fatalf("process said nothing more: %v", err)
	}
}

// tell lets a process go on that waits for it.
func (c *process) tell(t testing.TB) {
	t.Helper()
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		t.Fatal(err)
	}
}

// end closes the process's standard input and waits for its end.
func (c *process) end() error {
	c.in.Close()
	killer := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	defer killer.Stop()
	if err := c.cmd.Wait(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func (c *process) pid() uint32 { return uint32(c.cmd.Process.Pid) }

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		t.Fatal(err)
	}
	return s.Ino
}
