package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

func TestInspect(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.has(digits(1), digits(100), "web").State = criapi.ContainerState_CONTAINER_EXITED
	f.hasPod(digits(100), "web-1", "u-1", criapi.NamespaceMode_NODE)
	s := f.source()
	c, err := s.Inspect(t.Context(), digits(1))
	if err != nil || c.Name != "web" || !c.Pod.HostNetwork {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = s.Inspect(t.Context(), digits(100)); err != nil || c.Name != "POD" || c.Pod.Name != "web-1" {
		t.Errorf("%+v, %v", c, err)
	}
	for _, id := range []string{digits(2), "web", ""} {
		if c, err := s.Inspect(t.Context(), id); !errors.Is(err, container.ErrUnknown) {
			t.Errorf("%q: %+v, %v", id, c, err)
		}
	}
	// What is known without pod and image is worth having.
	f.do("PodSandboxStatus", func(context.Context) error { return status.Error(codes.Unavailable, "later") })
	f.do("ImageStatus", func(context.Context) error { return status.Error(codes.Internal, "broken") })
	f.has(digits(3), digits(101), "other")
	if c, err := s.Inspect(t.Context(), digits(3)); err != nil || c.Pod.UID != "u-1" || c.Pod.Container != "other" {
		t.Errorf("%+v, %v", c, err)
	}
	if f.times("Version") != 1 {
		t.Errorf("greeted %d times", f.times("Version"))
	}
}

func TestLiesAreNotBelieved(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.has(digits(1), digits(100), "web").Labels = nil
	f.hasPod(digits(100), "web-1", "u-1", criapi.NamespaceMode_NODE).Id = digits(101)
	f.containers[digits(2)] = f.containers[digits(1)] // the answer is of another
	s := f.source()
	if c, err := s.Inspect(t.Context(), digits(1)); err != nil || c.Pod != nil {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := s.Inspect(t.Context(), digits(2)); !errors.Is(err, container.ErrUnknown) {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestFailureSaysWhatToDo(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.do("Version", func(context.Context) error { return status.Error(codes.Unimplemented, "unknown service") })
	if _, err := f.source().Inspect(t.Context(), digits(1)); err == nil || !strings.Contains(err.Error(), "does not speak CRI v1: is the plugin cri of containerd disabled") {
		t.Error(err)
	}
	f.do("Version", func(context.Context) error { return status.Error(codes.Internal, "evil\x1b\n") })
	if _, err := f.source().Inspect(t.Context(), digits(1)); err == nil || strings.ContainsAny(err.Error(), "\x1b\n") || !strings.Contains(err.Error(), "Internal: evil") {
		t.Errorf("%q", err)
	}
	f.socket += ".none"
	if _, err := f.source().Inspect(t.Context(), digits(1)); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "is the runtime running?") {
		t.Error(err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.has(digits(1), digits(100), "huge").Labels["evil"] = strings.Repeat("x", maxAnswer)
	_, end := watched(t, f.source())
	if err := end(); err == nil || !strings.Contains(err.Error(), "ListContainers of "+f.socket+": ResourceExhausted") {
		t.Errorf("%.300v", err)
	}
}

func TestHostileTextIsHarmless(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	evil := map[string]string{"evil\x1b[2J": strings.Repeat("\n\x1b", 50<<10)}
	f.has(digits(1), digits(100), "na\nme").Annotations = evil
	p := f.hasPod(digits(100), "web\x1b", "u-1", criapi.NamespaceMode_POD)
	p.Annotations = map[string]string{"a": evil["evil\x1b[2J"], lastApplied: `{"env":"hunter2"}`}
	f.hasImage("sha256:"+digits(9), &criapi.Image{Id: digits(9), RepoTags: []string{"a\x1b:1\n"}, RepoDigests: []string{"a@sha256:\x1b"}})
	c, err := f.source().Inspect(t.Context(), digits(1))
	if err != nil {
		t.Fatal(err)
	}
	if said := fmt.Sprint(*c, *c.Pod); strings.ContainsAny(said, "\x1b\n") || len(said) > 4096 || strings.Contains(said, "hunter2") {
		t.Errorf("%.300q", said)
	}
}

func TestImageIsNotGuessed(t *testing.T) {
	t.Parallel()
	id, digest := "sha256:"+digits(9), "sha256:"+digits(7)
	for name, test := range map[string]struct {
		container *criapi.Container
		image     *criapi.Image
		want      container.Image
	}{
		"one tag":             {&criapi.Container{ImageRef: id}, &criapi.Image{Id: id, RepoTags: []string{"a:1"}}, container.Image{Name: "a", Tag: "1", ID: id}},
		"two tags of a name":  {&criapi.Container{ImageRef: id}, &criapi.Image{Id: id, RepoTags: []string{"a:1", "a:2"}, RepoDigests: []string{"a@" + digest}}, container.Image{Name: "a", Digest: digest, ID: id}},
		"two names":           {&criapi.Container{ImageRef: id}, &criapi.Image{Id: id, RepoTags: []string{"a:1", "b:1"}}, container.Image{ID: id}},
		"no tag any more":     {&criapi.Container{ImageRef: id}, &criapi.Image{Id: id, RepoDigests: []string{"a@" + digest}}, container.Image{Name: "a", Digest: digest, ID: id}},
		"image is gone":       {&criapi.Container{ImageRef: id}, nil, container.Image{ID: id}},
		"as the pod names it": {&criapi.Container{ImageRef: id, Image: &criapi.ImageSpec{Image: id, UserSpecifiedImage: "a"}}, &criapi.Image{Id: id, RepoTags: []string{"docker.io/library/a:latest", "b:1"}, RepoDigests: []string{"docker.io/library/a@" + digest}}, container.Image{Name: "a", Tag: "latest", Digest: digest, ID: id}},
		"by digest":           {&criapi.Container{ImageRef: id, Image: &criapi.ImageSpec{Image: "r:5000/a@" + digest}}, &criapi.Image{Id: id}, container.Image{Name: "r:5000/a", Digest: digest, ID: id}},
		"nothing":             {&criapi.Container{}, nil, container.Image{}},
	} {
		got := reference(test.container)
		var i *image
		if test.image != nil {
			i = newImage(test.image)
		}
		i.complete(&got)
		if got != test.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestSocketsThatAreThere(t *testing.T) {
	t.Parallel()
	root, err := os.MkdirTemp("", "cri") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	for _, dir := range []string{"run/containerd", "run/crio", "run/k3s/containerd"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(root, "var"), 0o755), os.Symlink("../run", filepath.Join(root, "var/run")),
		os.WriteFile(filepath.Join(root, "run/cri-dockerd.sock"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, path := range []string{"run/containerd/containerd.sock", "run/crio/crio.sock"} {
		l, err := net.Listen("unix", filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		want = append(want, filepath.Join(root, path))
	}
	if got := sockets(root); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
