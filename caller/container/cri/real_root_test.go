//go:build root

package cri

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/container/containertest"
)

func TestRealContainerd(t *testing.T) {
	t.Parallel()
	d := startContainerd(t)
	shop := d.RunPod(t, "web-1", "shop", "11111111-1111-1111-1111-111111111111", map[string]string{"app.kubernetes.io/name": "web"}, nil)
	before := d.run(t, shop, "before", "1h")
	s := d.source()
	directory := container.Open(slog.New(slog.DiscardHandler), s)
	defer directory.Close()
	l, _ := watched(t, s)
	l.awaitReady(t)

	t.Run("running before", func(t *testing.T) {
		c := l.await(t, before, false)
		checkReal(t, c, "before", shop)
		if c.Pod.Labels["app.kubernetes.io/name"] != "web" {
			t.Errorf("%+v", c.Pod)
		}
		if c := l.await(t, shop.ID, false); c.Name != "POD" || c.Pod.Name != "web-1" || c.Pod.Container != "" {
			t.Errorf("%+v", c)
		}
	})
	t.Run("two pods with the host's network", func(t *testing.T) {
		bank := d.RunPod(t, "ledger-1", "bank", "22222222-2222-2222-2222-222222222222", map[string]string{"team": "money"}, nil)
		web, ledger := d.run(t, shop, "web", "1h"), d.run(t, bank, "ledger", "1h")
		checkReal(t, l.await(t, web, false), "web", shop)
		checkReal(t, l.await(t, ledger, false), "ledger", bank)
	})
	t.Run("lives for 50 ms", func(t *testing.T) {
		id := d.run(t, shop, "short", "50ms")
		checkReal(t, l.await(t, id, true), "short", shop)
		d.Remove(t, id)
		if c := directory.Get(id, ""); c == nil {
			t.Error("not known")
		} else {
			checkReal(t, c, "short", shop)
		}
		if c, err := s.Inspect(t.Context(), id); !errors.Is(err, container.ErrUnknown) {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("hostile annotations", func(t *testing.T) {
		evil := d.RunPod(t, "evil", "shop", "33333333-3333-3333-3333-333333333333", nil, map[string]string{
			"evil\x1b[2J": "\x1b]0;owned\a\nlevel=ERROR", "long": strings.Repeat("x", 100<<10), lastApplied: `{"env":"hunter2"}`})
		c := l.await(t, d.run(t, evil, "evil", "1h"), false)
		checkReal(t, c, "evil", evil)
		if said := fmt.Sprint(*c, *c.Pod); strings.ContainsAny(said, "\x1b\a\n") || len(said) > 4096 || strings.Contains(said, "hunter2") || len(c.Pod.Annotations) != 2 {
			t.Errorf("%d bytes: %.1000q", len(said), said)
		}
	})
}

func TestRealContainerdThatHangsAndRestarts(t *testing.T) {
	t.Parallel()
	d := startContainerd(t)
	p := d.RunPod(t, "web-1", "shop", "44444444-4444-4444-4444-444444444444", nil, nil)
	id := d.run(t, p, "web", "1h")
	impatient := newSource(slog.New(slog.DiscardHandler), d.Socket,
		pace{patience: 3 * time.Second, pulse: 300 * time.Millisecond, soon: 300 * time.Millisecond, lists: time.Second})
	directory := container.Open(slog.New(slog.DiscardHandler), impatient)
	defer directory.Close()
	ready := func() bool { return directory.States()[0].Ready }
	await(t, "containerd is watched", ready)
	if err := d.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, "that it hangs is noticed", func() bool { return !ready() })
	if err := directory.States()[0].Error; err == nil || !strings.Contains(err.Error(), "no answer from "+d.Socket) {
		t.Error(err)
	}
	if err := d.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	await(t, "it is watched again", ready)
	d.Stop()
	await(t, "its end is noticed", func() bool { return !ready() })
	if c := directory.Get(id, ""); c == nil || c.Name != "web" {
		t.Errorf("%+v", c)
	}
	d.Start()
	await(t, "the next one is watched", ready)
	// The shims had their sockets in the mount namespace of the first containerd, so the first pod has ended.
	other := d.RunPod(t, "web-2", "shop", "55555555-5555-5555-5555-555555555555", nil, nil)
	next := d.run(t, other, "next", "1h")
	await(t, "its container is known", func() bool { c := directory.Get(next, ""); return c != nil && c.Pod != nil })
	checkReal(t, directory.Get(next, ""), "next", other)
	checkReal(t, directory.Get(id, ""), "web", p)
}

// Whoever may not use the socket is told so.
func TestDenied(t *testing.T) {
	t.Parallel()
	if socket := os.Getenv("DENIED_SOCKET"); socket != "" {
		_, err := New(slog.New(slog.DiscardHandler), socket).Inspect(t.Context(), digits(1))
		fmt.Printf("%v\n", err)
		return
	}
	f := newFake(t)
	if err := errors.Join(os.Chmod(f.socket, 0o660), os.Chown(f.socket, 0, 4), os.Chmod(filepath.Dir(f.socket), 0o755)); err != nil {
		t.Fatal(err)
	}
	bridge := exec.Command("/proc/self/exe", "-test.run=^TestDenied$")
	bridge.Env = append(os.Environ(), "DENIED_SOCKET="+f.socket)
	bridge.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
	out, err := bridge.CombinedOutput()
	want := "dial unix " + f.socket + ": connect: permission denied: run the bridge with the group of the socket (adm)"
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%v: %s", err, out)
	}
}

// checkReal checks what is known of a container of the image.
func checkReal(t *testing.T, c *container.Container, name string, of *containertest.Pod) {
	t.Helper()
	m := of.Config.Metadata
	if c.Runtime != "containerd" || c.Name != name || fmt.Sprint(c.From) != "[cri]" {
		t.Errorf("%+v", c)
	}
	if i := c.Image; i.Name != "registry.test/shop/programs" || i.Tag != "1" || !strings.HasPrefix(i.Digest, "sha256:") || !strings.HasPrefix(i.ID, "sha256:") {
		t.Errorf("%+v", i)
	}
	if p := c.Pod; p == nil || p.Name != m.Name || p.Namespace != m.Namespace || p.UID != m.Uid || p.Container != name || !p.HostNetwork {
		t.Errorf("%+v", p)
	}
}
