//go:build root

package docker

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

func TestRealDaemons(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *real{"docker": startDocker, "podman": startPodman} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t)
			old := r.make(t, "old", "1h")
			r.run(t, "start", old)
			// It remembers more than a listener: what was told of those that are gone.
			s := New(r.socket)
			d := container.Open(slog.New(slog.DiscardHandler), s)
			defer d.Close()
			l, _ := watched(t, s)
			await(t, "the daemon is watched", func() bool { return d.States()[0].Ready })
			l.awaitReady(t)
			if s.Name() != name {
				t.Errorf("%s is %s", name, s.Name())
			}
			// An image that was made here has no digest for Docker; Podman gives it one.
			whole := func(c *container.Container) bool {
				return c != nil && c.Image.ID != "" && (c.Image.Digest != "" || name == "docker")
			}
			isWhole := func(c *container.Container, _ bool) bool { return whole(c) }
			t.Run("running before", func(t *testing.T) {
				await(t, "it is known", func() bool { return whole(d.Get(old, "")) })
				checkReal(t, d.Get(old, ""), name, "old")
			})
			t.Run("lives for 50 ms", func(t *testing.T) {
				id := r.make(t, "short", "50ms", "team=shop", "com.amazonaws.ecs.task-arn=arn:aws:ecs:x:1:task/t", "com.amazonaws.ecs.cluster=prod")
				r.run(t, "start", id)
				c := l.await(t, id, func(c *container.Container, gone bool) bool { return gone && whole(c) })
				checkReal(t, c, name, "short")
				if c.Labels["team"] != "shop" || c.Task == nil || c.Task.Cluster != "prod" {
					t.Errorf("%+v", c)
				}
				r.run(t, "rm", "--force", id)
				await(t, "the directory knows it", func() bool { return whole(d.Get(id, "")) })
				checkReal(t, d.Get(id, ""), name, "short")
				if c, err := s.Inspect(t.Context(), id); !errors.Is(err, container.ErrUnknown) {
					t.Errorf("%+v, %v", c, err)
				}
			})
			t.Run("hostile labels", func(t *testing.T) {
				id := r.make(t, "hostile", "1h", "evil\x1b[2J=\x1b]0;owned\a\nlevel=ERROR", "long="+strings.Repeat("x", 100<<10), "name=other", "image=other:2")
				r.run(t, "start", id)
				c := l.await(t, id, isWhole)
				checkReal(t, c, name, "hostile")
				if said := fmt.Sprint(*c, c.Labels); strings.ContainsAny(said, "\x1b\a\n") || len(said) > 4096 || len(c.Labels["long"]) < 200 {
					t.Errorf("%d bytes: %.1000q", len(said), said)
				}
			})
			t.Run("renamed", func(t *testing.T) {
				id := r.make(t, "before", "1h")
				r.run(t, "rename", "before", "between")
				r.run(t, "start", id)
				l.await(t, id, func(c *container.Container, _ bool) bool { return c.Name == "between" && whole(c) })
				r.run(t, "rename", "between", "after")
				c := l.await(t, id, func(c *container.Container, _ bool) bool { return c.Name == "after" })
				checkReal(t, c, name, "after")
				c, err := s.Inspect(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				checkReal(t, c, name, "after")
			})
		})
	}
}

// checkReal checks what is known of a container of the image sleep:1.
func checkReal(t *testing.T, c *container.Container, runtime, name string) {
	t.Helper()
	digest := strings.HasPrefix(c.Image.Digest, "sha256:")
	if c.Runtime != runtime || c.Name != name || !strings.HasSuffix(c.Image.Name, "sleep") || c.Image.Tag != "1" ||
		!strings.HasPrefix(c.Image.ID, "sha256:") || digest != (runtime == "podman") || c.Labels["io.kubernetes.pod.uid"] == "" || c.Pod != nil {
		t.Errorf("%+v", c)
	}
}

func TestRealDaemonThatHangsAndRestarts(t *testing.T) {
	t.Parallel()
	r := startDocker(t)
	id := r.make(t, "web", "1h")
	r.run(t, "start", id)
	d := container.Open(slog.New(slog.DiscardHandler), newSource(r.socket, 2*time.Second, 200*time.Millisecond))
	defer d.Close()
	ready := func() bool { return d.States()[0].Ready }
	await(t, "the daemon is watched", ready)
	if err := r.running.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, "that it hangs is noticed", func() bool { return !ready() })
	if err := d.States()[0].Error; err == nil || !strings.Contains(err.Error(), "no answer from "+r.socket) {
		t.Error(err)
	}
	if err := r.running.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	await(t, "it is watched again", ready)
	r.stop()
	await(t, "its end is noticed", func() bool { return !ready() })
	if c := d.Get(id, ""); c == nil || c.Name != "web" {
		t.Errorf("%+v", c)
	}
	r.start()
	id = r.make(t, "new", "1h")
	await(t, "the next one is watched", ready)
	await(t, "its container is known", func() bool { c := d.Get(id, ""); return c != nil && c.Name == "new" })
}

// Whoever may not use the socket is told so.
func TestDenied(t *testing.T) {
	t.Parallel()
	if socket := os.Getenv("DENIED_SOCKET"); socket != "" {
		_, err := New(socket).Inspect(t.Context(), id(1))
		fmt.Printf("%v\n", err)
		return
	}
	f := newFake(t)
	if err := errors.Join(os.Chmod(f.socket, 0o660), os.Chown(f.socket, 0, 4), os.Chmod(strings.TrimSuffix(f.socket, "/socket"), 0o755)); err != nil {
		t.Fatal(err)
	}
	bridge := exec.Command("/proc/self/exe", "-test.run=^TestDenied$")
	bridge.Env = append(os.Environ(), "DENIED_SOCKET="+f.socket)
	bridge.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
	out, err := bridge.CombinedOutput()
	want := "dial unix " + f.socket + ": connect: permission denied: run the bridge with the group of the socket (adm), or give it"
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("%v: %s", err, out)
	}
}
