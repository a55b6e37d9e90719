package kubernetes

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

func TestImage(t *testing.T) {
	t.Parallel()
	const sum = "sha256:0123"
	hash := strings.Repeat("ab", 32)
	for _, test := range []struct {
		reference, id string
		want          container.Image
	}{
		{"nginx", "docker.io/library/nginx@" + sum, container.Image{Name: "nginx", Tag: "latest", Digest: sum}},
		{"nginx:1", "docker-pullable://nginx@" + sum, container.Image{Name: "nginx", Tag: "1", Digest: sum}},
		{"nginx:1", "docker://sha256:" + hash, container.Image{Name: "nginx", Tag: "1", ID: "sha256:" + hash}},
		{"nginx:1", "sha256:" + hash, container.Image{Name: "nginx", Tag: "1", ID: "sha256:" + hash}},
		{"nginx:1", hash, container.Image{Name: "nginx", Tag: "1", ID: "sha256:" + hash}}, // CRI-O
		{"r:5000/a@" + sum, "", container.Image{Name: "r:5000/a", Digest: sum}},
		{"", "", container.Image{}},
	} {
		if got := image(test.reference, test.id); got != test.want {
			t.Errorf("%s, %s: %+v", test.reference, test.id, got)
		}
	}
}

// Who may make pods may write annotations and owners, and must not pass for another pod by them.
func TestAliasIsForMirrorsAlone(t *testing.T) {
	t.Parallel()
	const uuid = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
	node := owner{APIVersion: "v1", Kind: "Node", Name: "node-1", Controller: true}
	for name, test := range map[string]struct {
		annotations map[string]string
		owner       owner
		want        string
	}{
		"mirror":                {map[string]string{mirrored: staticUID, configHash: staticUID}, node, staticUID},
		"no mirror":             {map[string]string{configHash: staticUID}, node, ""},
		"of nobody":             {map[string]string{mirrored: "1", configHash: staticUID}, owner{}, ""},
		"of another node":       {map[string]string{mirrored: "1", configHash: staticUID}, owner{Kind: "Node", Name: "node-2"}, ""},
		"the UID of other pods": {map[string]string{mirrored: "1", configHash: uuid}, node, ""},
	} {
		o := &podObject{Metadata: metadata{Annotations: test.annotations, OwnerReferences: []owner{test.owner}}}
		if got := newPod(o, "node-1").alias; got != test.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestOwnerThatIsAskedAbout(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		version, kind, name, want string
	}{
		{"apps/v1", "ReplicaSet", "web-1", "/apis/apps/v1/namespaces/shop/replicasets/web-1"},
		{"batch/v1", "Job", "job.1", "/apis/batch/v1/namespaces/shop/jobs/job.1"},
		{"apps/v1", "DaemonSet", "web", ""},
		{"example.org/v1", "ReplicaSet", "web", ""},
		{"v1", "Node", "node-1", ""},
		{"apps/v1", "ReplicaSet", "../../../../api/v1/namespaces/shop/secrets/key", ""},
		{"apps/v1", "ReplicaSet", "..", ""},
		{"apps/v1", "ReplicaSet", "web?watch=1", ""},
		{"apps/v1", "ReplicaSet", "web%2f", ""},
		{"apps/v1", "ReplicaSet", "", ""},
	} {
		got := ""
		if q, ok := questionAbout("shop", owner{APIVersion: test.version, Kind: test.kind, Name: test.name}); ok {
			got = q.path()
		}
		if got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

func TestControllerIsTheOwner(t *testing.T) {
	t.Parallel()
	m := metadata{OwnerReferences: []owner{{Name: "a"}, {Name: "b", Controller: true}}}
	if got := m.owner().Name; got != "b" {
		t.Error(got)
	}
	m.OwnerReferences[1].Controller = false
	if got := m.owner().Name; got != "a" {
		t.Error(got)
	}
}

func TestHostilePod(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100<<10)
	var o podObject
	text := fmt.Sprintf(`{"metadata":{"name":"\u001b[2J","labels":{"a\n":"%s"},"ownerReferences":[{"kind":"\r","name":"%s"}]},
		"spec":{"containers":[{"name":"\u0000","image":"%s"}]},
		"status":{"containerStatuses":[
			{"name":"\u0000","containerID":"containerd://%s"},
			{"name":"b","containerID":"containerd://../../etc"},
			{"name":"c","containerID":"%s"},
			{"name":"d","containerID":"evil\n://%s"}]}}`, long, long, long, id(1), id(2), id(3))
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	p := newPod(&o, "node-1")
	if len(p.containers) != 2 || p.containers[id(1)] == nil || p.containers[id(3)] == nil || p.containers[id(3)].Runtime != "" {
		t.Errorf("%+v", p.containers)
	}
	for _, c := range p.containers {
		shown := fmt.Sprintf("%+v %+v", c, c.Pod)
		if strings.ContainsAny(shown, "\x00\x1b\r\n") || len(shown) > 8<<10 {
			t.Errorf("%d bytes: %.300q", len(shown), shown)
		}
	}
}
