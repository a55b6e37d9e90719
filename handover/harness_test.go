package handover

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// running is a bridge that can be taken over from, and notes what it is told.
type running struct {
	*Control
	path     string
	listener *net.TCPListener

	mu    sync.Mutex
	heard []string
}

// start runs a bridge until the test ends.
func start(t *testing.T, refusal string) *running {
	t.Helper()
	return startAt(t, socketPath(t), refusal)
}

func startAt(t *testing.T, path, refusal string) *running {
	t.Helper()
	listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	c, err := Listen(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Control: c, path: path, listener: listener}
	served := make(chan error)
	go func() {
		served <- c.Serve(Holder{
			State:   r.state,
			Whole:   r.whole,
			Leave:   func() { r.hear("leave") },
			Pause:   func() { r.hear("pause") },
			Resume:  func() { r.hear("resume") },
			Retire:  func() { r.hear("retire") },
			Refusal: refusal,
			Logger:  slog.New(slog.DiscardHandler),
		})
	}()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r
}

// socketPath is short enough for a socket, which t.TempDir may not be, in a directory that is not there.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "handover")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "control.sock")
}

var terms = Terms{"redirect.mark": "0x2069", "redirector": "ebpf"}

func (r *running) state() (State, error) {
	listener, err := r.listener.File()
	if err != nil {
		return State{}, err
	}
	other, err := os.Open(os.DevNull)
	if err != nil {
		return State{}, errors.Join(err, listener.Close())
	}
	return State{Version: "1", Terms: terms, Files: map[string]*os.File{"listen": listener, "other": other}}, nil
}

func (r *running) whole() (State, error) {
	s, err := r.state()
	if err == nil {
		s.Files["link"], err = os.Open(os.DevNull)
	}
	return s, err
}

func (r *running) hear(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = append(r.heard, what)
}

// expect waits until the bridge was told just that.
func (r *running) expect(t *testing.T, want ...string) {
	t.Helper()
	heard := func() []string {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.Clone(r.heard)
	}
	for deadline := time.Now().Add(2 * time.Second); !slices.Equal(heard(), want); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the running bridge was told %q, want %q", heard(), want)
		}
	}
}

// begin begins a takeover that ends with the test.
func begin(t *testing.T, path string) *Takeover {
	t.Helper()
	takeover, err := Begin(path, "2")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		takeover.Close()
		if err := takeover.State.Close(); err != nil {
			t.Error(err)
		}
	})
	return takeover
}

// do fails the test unless each of the steps succeeds.
func do(t *testing.T, steps ...func() error) {
	t.Helper()
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
}

// fake is the end of a socket whose other end behaves as the test says.
func fake(t *testing.T, path string, behave func(wire)) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		behave(wire{conn})
		_, _ = io.Copy(io.Discard, conn) // until the test is done with it
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
}
