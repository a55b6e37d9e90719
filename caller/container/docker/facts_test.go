package docker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

var taskLabels = map[string]string{
	"com.amazonaws.ecs.cluster": "prod", "com.amazonaws.ecs.container-name": "app", "com.amazonaws.ecs.task-arn": "arn:aws:ecs:eu-west-1:1:task/prod/0",
	"com.amazonaws.ecs.task-definition-family": "shop", "com.amazonaws.ecs.task-definition-version": "7",
}

var podLabels = map[string]string{
	"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "u-1",
	"io.kubernetes.container.name": "web", "io.kubernetes.docker.type": "container",
}

func TestTaskAndPodFromLabels(t *testing.T) {
	t.Parallel()
	s := New("/run/docker.sock")
	sketch := s.sketch(facts{id: id(1), labels: taskLabels})
	want := container.Task{Cluster: "prod", ARN: "arn:aws:ecs:eu-west-1:1:task/prod/0", Family: "shop", Revision: "7", Container: "app"}
	if c := complete(sketch, &image{}); c.Task == nil || *c.Task != want || c.Pod != nil {
		t.Errorf("%+v", c)
	}
	c := complete(s.sketch(facts{id: id(1), labels: podLabels}), &image{})
	if c.Task != nil || c.Pod == nil || c.Pod.UID != "u-1" || c.Pod.Name != "web-0" || c.Pod.Namespace != "shop" || c.Pod.Container != "web" {
		t.Errorf("%+v", c)
	}
	sandbox := map[string]string{"io.kubernetes.pod.uid": "u-1", "io.kubernetes.container.name": "POD", "io.kubernetes.docker.type": "podsandbox"}
	if c := complete(s.sketch(facts{id: id(1), labels: sandbox}), &image{}); c.Pod == nil || c.Pod.Container != "" {
		t.Errorf("%+v", c.Pod)
	}
}

// Whoever makes an image could otherwise have its containers take part in any pod or task.
func TestPodAndTaskOfAnImageAreNotBelieved(t *testing.T) {
	t.Parallel()
	s := New("/run/docker.sock")
	for name, labels := range map[string]map[string]string{"task": taskLabels, "pod": podLabels} {
		sketch := s.sketch(facts{id: id(1), labels: labels})
		for _, i := range []*image{nil, newImage(nil, nil, labels)} {
			if c := complete(sketch, i); c.Pod != nil || c.Task != nil || len(c.Labels) != len(labels) {
				t.Errorf("%s: %+v", name, c)
			}
		}
		// An image made of a container has its labels.
		other := map[string]string{"com.amazonaws.ecs.task-arn": "another", "io.kubernetes.pod.uid": "another", "com.amazonaws.ecs.cluster": "prod"}
		if c := complete(sketch, newImage(nil, nil, other)); c.Pod == nil && c.Task == nil || c.Task != nil && c.Task.Cluster != "prod" {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestImageOfAContainer(t *testing.T) {
	t.Parallel()
	digest := func(n int) string { return "sha256:" + id(n) }
	s := New("/run/docker.sock")
	for name, test := range map[string]struct {
		reference     string
		tags, digests []string
		want          string
	}{
		"tag and digest":            {"nginx:1", []string{"nginx:1"}, []string{"nginx@" + digest(1)}, "nginx:1@" + digest(1)},
		"Docker means latest":       {"nginx", nil, nil, "nginx:latest"},
		"Podman's long name":        {"docker.io/library/nginx:1", nil, []string{"a/nginx@" + digest(2), "nginx@" + digest(1)}, "docker.io/library/nginx:1@" + digest(1)},
		"several repositories":      {"b/x:1", nil, []string{"a/x@" + digest(1), "b/x@" + digest(2)}, "b/x:1@" + digest(2)},
		"tagged here":               {"mine:1", nil, []string{"a/x@" + digest(1)}, "mine:1@" + digest(1)},
		"built here":                {"mine:1", []string{"mine:1"}, nil, "mine:1"},
		"by digest":                 {"nginx@" + digest(3), nil, []string{"nginx@" + digest(1)}, "nginx@" + digest(3)},
		"by id":                     {digest(9), []string{"nginx:1"}, []string{"nginx@" + digest(1)}, "nginx:1@" + digest(1)},
		"by the beginning of an id": {id(9)[:12], []string{"nginx:1"}, nil, "nginx:1"},
		"by id, of two tags":        {digest(9), []string{"a:1", "b:1"}, nil, ""},
		"no name":                   {digest(9), []string{"<none>:<none>"}, []string{"<none>@<none>"}, ""},
		"hostile":                   {"a\nb:\x1b", nil, []string{"a@sha256:" + strings.Repeat("0", 1<<20), "b@\x1b", "c"}, `a\nb:\x1b`},
	} {
		c := complete(s.sketch(facts{id: id(1), reference: test.reference, imageID: digest(9)}), newImage(test.tags, test.digests, nil))
		if c.Image.String() != test.want || c.Image.ID != digest(9) {
			t.Errorf("%s: %s, %+v", name, c.Image, c.Image)
		}
	}
}

func TestImageIsRememberedInBounds(t *testing.T) {
	t.Parallel()
	var digests []string
	for n := range 1000 {
		digests = append(digests, fmt.Sprintf("%s%d@sha256:%s", strings.Repeat("x", 1000), n, id(n)))
	}
	i := newImage([]string{strings.Repeat("y", 1<<20)}, digests, map[string]string{"io.kubernetes.pod.uid": strings.Repeat("z", 1<<20)})
	size := len(i.only.Name) + len(i.pod.UID)
	for _, d := range i.digests {
		size += len(d.Name) + len(d.Digest)
	}
	if len(i.digests) != maxDigests || size > 8<<10 {
		t.Errorf("%d digests, %d bytes", len(i.digests), size)
	}
}
