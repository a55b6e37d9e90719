package kubernetes

import (
	"slices"
	"strings"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

// pod is what is known of one. It is replaced, never changed.
type pod struct {
	facts *container.Pod // without the name of a container
	// alias is the UID by which the kubelet knows a static pod, and names its cgroups. The API server
	// gives the mirror of the pod another one.
	alias      string
	owner      owner
	containers map[string]*container.Container // by id
	running    map[string]bool
}

// Annotations that the kubelet gives the mirrors of static pods, and one that holds the whole object
// once more, with all that its maker wrote into it.
const (
	mirrored    = "kubernetes.io/config.mirror"
	configHash  = "kubernetes.io/config.hash"
	lastApplied = "kubectl.kubernetes.io/last-applied-configuration"
)

// newPod reads an object. Its workload is the pod's own owner: see [pod.ownedBy].
func newPod(o *podObject, node string) *pod {
	m, made := &o.Metadata, o.Metadata.owner()
	p := &pod{owner: made, alias: alias(m, made, node), containers: make(map[string]*container.Container), running: make(map[string]bool)}
	delete(m.Annotations, lastApplied)
	p.facts = container.CleanPod(&container.Pod{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, Node: node,
		ServiceAccount: o.Spec.ServiceAccountName, HostNetwork: o.Spec.HostNetwork,
		Labels: m.Labels, Annotations: m.Annotations,
		Workload: container.Workload{Kind: made.Kind, Name: made.Name},
	})
	images := make(map[string]string)
	for _, c := range slices.Concat(o.Spec.InitContainers, o.Spec.Containers, o.Spec.EphemeralContainers) {
		images[c.Name] = c.Image
	}
	for _, s := range slices.Concat(o.Status.InitContainerStatuses, o.Status.ContainerStatuses, o.Status.EphemeralContainerStatuses) {
		reference := images[s.Name]
		if reference == "" {
			reference = s.Image
		}
		// The one before may have lived for too short a time to be in any other version. It may have
		// had another image.
		if before := s.LastState.Terminated; before != nil {
			p.add(before.ContainerID, s.Name, container.Image{}, false)
		}
		p.add(s.ContainerID, s.Name, image(reference, s.ImageID), s.State.Running != nil)
	}
	return p
}

// alias is believed of a pod that is a mirror by all that can be seen, and in the form that no API
// server gives out: whoever may make pods may write such annotations.
func alias(m *metadata, made owner, node string) string {
	hash := m.Annotations[configHash]
	if m.Annotations[mirrored] == "" || made.Kind != "Node" || made.Name != node || len(hash) != 32 || !isHex(hash) {
		return ""
	}
	return hash
}

// runtimes by the scheme of their ids.
var runtimes = map[string]string{"docker": "docker", "containerd": "containerd", "cri-o": "cri-o"}

// add adds a container by its id, such as containerd://<64 hex digits>.
func (p *pod) add(reference, name string, image container.Image, running bool) {
	scheme, id, _ := strings.Cut(reference, "://")
	if len(id) != 64 || !isHex(id) {
		return // is not made yet, or of a kind that no cgroup names
	}
	c := container.Clean(&container.Container{ID: id, Runtime: runtimes[scheme], Image: image, From: from})
	c.Pod = inside(p.facts, container.CleanPod(&container.Pod{Container: name}).Container)
	p.containers[id], p.running[id] = c, running
}

var from = []string{"kubernetes"}

// inside is the pod as one of its containers has it.
func inside(facts *container.Pod, name string) *container.Pod {
	copied := *facts
	copied.Container = name
	return &copied
}

// image puts together the one that was asked for, and the id of the one that runs: a reference with
// digest, or the hash of its configuration. Docker's has a scheme.
func image(reference, id string) container.Image {
	i := container.ParseImage(reference)
	if i.Name != "" && i.Tag == "" && i.Digest == "" {
		i.Tag = "latest" // is what runtimes take it for
	}
	if _, rest, ok := strings.Cut(id, "://"); ok {
		id = rest
	}
	if len(id) == 64 && isHex(id) {
		id = "sha256:" + id
	}
	runs := container.ParseImage(id)
	if runs.Digest != "" {
		i.Digest = runs.Digest
	}
	if runs.ID != "" {
		i.ID = runs.ID
	}
	return i
}

// ownedBy is the pod with another workload.
func (p *pod) ownedBy(w container.Workload) *pod {
	if p.facts.Workload == w {
		return p
	}
	owned, facts := *p, *p.facts
	facts.Workload = w
	owned.facts, owned.containers = &facts, make(map[string]*container.Container, len(p.containers))
	for id, c := range p.containers {
		copied := *c
		copied.Pod = inside(&facts, c.Pod.Container)
		owned.containers[id] = &copied
	}
	return &owned
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }
