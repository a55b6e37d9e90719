// Package container says what containers are: their names, images and labels, and the pods and tasks
// that they belong to, as those tell who run them.
package container

import (
	"maps"
	"slices"
	"strings"
)

// Container is what is known of a container. It is shared: read it only.
//
// Its text is valid UTF-8 without control characters, and bounded: see [Clean].
type Container struct {
	// ID is the 64 hex digits by which runtimes know it.
	ID string
	// Runtime is docker, podman, containerd or cri-o.
	Runtime string
	// Name is the runtime's; [Pod.Container] and [Task.Container] are what its maker calls it.
	Name   string
	Image  Image
	Labels map[string]string
	Pod    *Pod
	Task   *Task
	// From names the sources that told of it, in the order of their weight.
	From []string
	// Partial says that a source has yet to look at the image: digest, pod and task may follow.
	Partial bool
}

// Image is what a container was made of. What the source does not know is "".
type Image struct {
	Name   string // with registry and path, without tag and digest
	Tag    string
	Digest string // sha256:… of the manifest
	ID     string // sha256:… of the configuration
}

// String is the reference as one would write it.
func (i Image) String() string {
	text := i.Name
	if i.Tag != "" {
		text += ":" + i.Tag
	}
	if i.Digest != "" {
		text += "@" + i.Digest
	}
	return text
}

// ParseImage reads a reference: name[:tag][@digest]. A bare digest is an ID.
func ParseImage(reference string) (i Image) {
	rest, digest, _ := strings.Cut(reference, "@")
	if strings.HasPrefix(rest, "sha256:") {
		return Image{ID: rest}
	}
	i.Digest = digest
	i.Name = rest
	// A port of a registry has a slash behind it.
	if at := strings.LastIndexByte(rest, ':'); at >= 0 && !strings.Contains(rest[at:], "/") {
		i.Name, i.Tag = rest[:at], rest[at+1:]
	}
	return i
}

// Pod is of Kubernetes.
type Pod struct {
	Name, Namespace, UID string
	Container            string // its name in the pod's specification; "" where only the pod is known
	ServiceAccount, Node string
	HostNetwork          bool
	Labels, Annotations  map[string]string
	Workload             Workload
}

// Workload is what made a pod, and would make it again: the last of its owners.
type Workload struct {
	Kind string // Deployment, DaemonSet, StatefulSet, Job, CronJob, ReplicaSet, or what a custom one is called
	Name string
}

// Task is of Amazon ECS.
type Task struct {
	Cluster, ARN     string
	Family, Revision string
	Service          string // "" for a task that no service started
	Container        string // its name in the task definition
}

// with adds what another source knows. What is there stays, for it has more weight.
func (c *Container) with(more *Container) *Container {
	if c == nil {
		return more
	}
	sum := *c
	fill(&sum.Runtime, more.Runtime)
	fill(&sum.Name, more.Name)
	if sum.Image.Name == "" {
		sum.Image.Name, sum.Image.Tag = more.Image.Name, more.Image.Tag
	}
	fill(&sum.Image.Digest, more.Image.Digest)
	fill(&sum.Image.ID, more.Image.ID)
	if len(sum.Labels) == 0 {
		sum.Labels = more.Labels
	} else if len(more.Labels) > 0 {
		all := maps.Clone(more.Labels)
		maps.Copy(all, sum.Labels)
		sum.Labels = all
	}
	sum.Pod = sum.Pod.with(more.Pod)
	sum.Task = sum.Task.with(more.Task)
	sum.Partial = sum.Partial || more.Partial
	sum.From = slices.Clip(sum.From)
	for _, from := range more.From {
		if !slices.Contains(sum.From, from) {
			sum.From = append(sum.From, from)
		}
	}
	return &sum
}

// is tells whether this is the pod that a cgroup names.
func (p *Pod) is(uid string) bool { return p != nil && (p.UID == uid || p.UID == "") }

func (p *Pod) with(more *Pod) *Pod {
	if p == nil || more == nil {
		if p == nil {
			return more
		}
		return p
	}
	sum := *p
	fill(&sum.Name, more.Name)
	fill(&sum.Namespace, more.Namespace)
	fill(&sum.UID, more.UID)
	fill(&sum.Container, more.Container)
	fill(&sum.ServiceAccount, more.ServiceAccount)
	fill(&sum.Node, more.Node)
	sum.HostNetwork = sum.HostNetwork || more.HostNetwork
	if len(sum.Labels) == 0 {
		sum.Labels = more.Labels
	}
	if len(sum.Annotations) == 0 {
		sum.Annotations = more.Annotations
	}
	if sum.Workload.Kind == "" {
		sum.Workload = more.Workload
	}
	return &sum
}

func (t *Task) with(more *Task) *Task {
	if t == nil || more == nil {
		if t == nil {
			return more
		}
		return t
	}
	sum := *t
	fill(&sum.Cluster, more.Cluster)
	fill(&sum.ARN, more.ARN)
	fill(&sum.Family, more.Family)
	fill(&sum.Revision, more.Revision)
	fill(&sum.Service, more.Service)
	fill(&sum.Container, more.Container)
	return &sum
}

func fill(field *string, with string) {
	if *field == "" {
		*field = with
	}
}
