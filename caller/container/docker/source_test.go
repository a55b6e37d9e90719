package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

func TestInspect(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.has(id(1), "web", id(9), "nginx:1.25", object{"team": "shop"})
	f.hasImage(id(9), []string{"nginx:1.25"}, []string{"nginx@sha256:" + id(7)}, nil)
	s := f.source()
	for range 2 {
		c, err := s.Inspect(t.Context(), id(1))
		if err != nil || c.ID != id(1) || c.Name != "web" || c.Runtime != "docker" || c.Labels["team"] != "shop" ||
			c.Image.String() != "nginx:1.25@sha256:"+id(7) || c.Image.ID != "sha256:"+id(9) {
			t.Fatalf("%+v, %v", c, err)
		}
		if strings.Contains(fmt.Sprintf("%+v", c), "hunter2") {
			t.Error("a secret was kept")
		}
	}
	if f.timesAsked("/version") != 1 || f.timesAsked("/images/sha256:"+id(9)+"/json") != 1 {
		t.Errorf("asked for %q", f.asked())
	}
}

func TestInspectUnknown(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.has(id(1), "web", id(9), "nginx:1.25", nil)
	f.answer("/containers/web/json", f.answers["/containers/"+id(1)+"/json"])
	s := f.source()
	for _, unknown := range []string{id(2), "web", "../containers/json", ""} { // LXC containers have names
		if c, err := s.Inspect(t.Context(), unknown); !errors.Is(err, container.ErrUnknown) {
			t.Errorf("%q: %+v, %v", unknown, c, err)
		}
	}
	if n := len(f.asked()); n != 2 {
		t.Errorf("asked for %q", f.asked())
	}
}

func TestInspectWithoutAnswer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		with  any
		want  string
		hangs bool
	}{
		"hangs":    {http.HandlerFunc(hang), "no answer from", true},
		"trickles": {http.HandlerFunc(trickle), "no answer from", true},
		"too long": {strings.Repeat(" ", maxAnswer+1), "longer than", false},
		"no JSON":  {"<html>", "invalid character", false},
		"fails": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"message":"\u001b[2J"}`, http.StatusInternalServerError)
		}), `status 500: \x1b[2J`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			s := f.source()
			if test.hangs {
				s = f.impatient()
			}
			f.answer("/containers/"+id(1)+"/json", test.with)
			c, err := s.Inspect(t.Context(), id(1))
			if err == nil || errors.Is(err, container.ErrUnknown) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

// trickle answers without end.
func trickle(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write([]byte(" ")); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		time.Sleep(time.Millisecond)
	}
}

func TestImageThatMayNotBeAskedAbout(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	labels := object{"com.amazonaws.ecs.task-arn": "arn:aws:ecs:x:task/t"}
	f.has(id(1), "web", id(9), "nginx:1.25", labels)
	f.answer("/images/sha256:"+id(9)+"/json", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	c, err := f.source().Inspect(t.Context(), id(1))
	if err != nil || c.Image.Name != "nginx" || c.Image.Digest != "" || c.Task != nil {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestAPIVersion(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ least, most, want string }{
		{"1.12", "1.26", "/v1.26"}, // Docker 17.03
		{"", "1.24", "/v1.24"},
		{"1.24", "1.41", "/v1.41"}, // Podman 4
		{"1.44", "1.53", "/v1.44"}, // Docker 29
	} {
		if got, err := versionPrefix(test.least, test.most); err != nil || got != test.want {
			t.Errorf("%s to %s: %s, %v", test.least, test.most, got, err)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	_, err := New(f.socket+"x").Inspect(t.Context(), id(1))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "is the daemon running?") {
		t.Error(err)
	}
	l, err := net.Listen("unix", f.socket+"y")
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	_, err = New(f.socket+"y").Inspect(t.Context(), id(1))
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "is the daemon running?") {
		t.Error(err)
	}
}

// What goes by the time and the daemon's restart, through a Directory.
func TestDirectoryRecovers(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.has(id(1), "asked", id(9), "a:1", nil)
	f.answer("/containers/json", []object{{"Id": id(2), "Names": []string{"/listed"}, "Image": "b:1", "ImageID": id(9)}})
	d := container.Open(slog.New(slog.DiscardHandler), f.source())
	defer d.Close()
	known := func(id string) bool { c := d.Get(id, ""); return c != nil && c.Name != "" }
	await(t, "what is listed is known", func() bool { return known(id(2)) && d.States()[0].Ready })
	await(t, "what is asked about is known", func() bool { return known(id(1)) })
	f.end()
	await(t, "the end is noticed", func() bool { return !d.States()[0].Ready && d.States()[0].Error != nil })
	if !known(id(1)) || !known(id(2)) {
		t.Error("what was known is not")
	}
	f.answer("/containers/json", []object{{"Id": id(3), "Names": []string{"/new"}, "Image": "b:1", "ImageID": id(9)}})
	f.end = f.listen()
	await(t, "it is watched again", func() bool { return d.States()[0].Ready && known(id(3)) && known(id(2)) })
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 15 s", what)
		}
	}
}

func TestSockets(t *testing.T) {
	t.Parallel()
	root, err := os.MkdirTemp("", "root")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	put := func(socket bool, path string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if !socket {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	put(true, "run/podman/podman.sock")
	put(true, "run/user/1000/docker.sock")
	put(true, "run/user/1001/podman/podman.sock")
	put(false, "run/user/1002/docker.sock")
	for target, link := range map[string]string{"../run": "var/run", "podman/podman.sock": "run/docker.sock"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, link)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, path := range sockets(root) {
		got = append(got, strings.TrimPrefix(path, root))
	}
	want := []string{"/run/docker.sock", "/run/user/1000/docker.sock", "/run/user/1001/podman/podman.sock"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestEndOfTheCallersPatience(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.answer("/version", http.HandlerFunc(hang))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := New(f.socket).Inspect(ctx, id(1)); err == nil || !strings.Contains(err.Error(), "no answer from") {
		t.Error(err)
	}
}
