package docker

import (
	"regexp"
	"strings"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

// facts are what a list, an event or an inspection tells of a container. What an event does not know
// is "". Its labels and its image never change, its name may.
type facts struct {
	id, name  string
	reference string // of the image, as it was given when the container was made
	imageID   string // with or without sha256:
	labels    map[string]string
}

// sketch is the container before anything is known of its image. Its pod and task are what its labels
// claim: see [complete].
func (s *Source) sketch(f facts) *container.Container {
	d := s.daemon.Load()
	c := &container.Container{
		ID: f.id, Runtime: d.name, Name: f.name, From: d.from,
		Image: container.ParseImage(f.reference), Labels: f.labels,
	}
	c.Pod, c.Task = claims(f.labels)
	digits := strings.TrimPrefix(f.imageID, "sha256:")
	if isDigits(digits) {
		c.Image.ID = "sha256:" + digits
		if strings.HasPrefix(digits, c.Image.Name) {
			c.Image.Name = "" // part of the id is a reference too
		}
	}
	if i := &c.Image; i.Name != "" && i.Tag == "" && i.Digest == "" {
		i.Tag = "latest" // is what runtimes take it for
	}
	return container.Clean(c)
}

// claims are what labels say of the pod and the task that a container belongs to.
func claims(labels map[string]string) (pod *container.Pod, task *container.Task) {
	const kubernetes, ecs = "io.kubernetes.", "com.amazonaws.ecs."
	if uid := labels[kubernetes+"pod.uid"]; uid != "" {
		pod = &container.Pod{
			UID: uid, Name: labels[kubernetes+"pod.name"], Namespace: labels[kubernetes+"pod.namespace"],
			Container: labels[kubernetes+"container.name"],
		}
		if labels[kubernetes+"docker.type"] == "podsandbox" {
			pod.Container = "" // it holds the pod's namespaces, and is not in its specification
		}
	}
	if arn := labels[ecs+"task-arn"]; arn != "" {
		task = &container.Task{
			ARN: arn, Cluster: labels[ecs+"cluster"], Container: labels[ecs+"container-name"],
			Family: labels[ecs+"task-definition-family"], Revision: labels[ecs+"task-definition-version"],
		}
	}
	return pod, task
}

// complete adds what is known of the image, nil for nothing. A container has its image's labels beside
// those of who started it, and its image may come from anybody. So the pod and the task are believed
// only when it is known that the image does not claim the same.
func complete(sketch *container.Container, i *image) *container.Container {
	c := *sketch
	if i == nil {
		c.Pod, c.Task = nil, nil
		return &c
	}
	if c.Pod != nil && i.pod != nil && c.Pod.UID == i.pod.UID {
		c.Pod = nil
	}
	if c.Task != nil && i.task != nil && c.Task.ARN == i.task.ARN {
		c.Task = nil
	}
	if c.Image.Name == "" {
		c.Image.Name, c.Image.Tag = i.only.Name, i.only.Tag
	}
	if c.Image.Digest == "" {
		c.Image.Digest = i.digest(c.Image.Name)
	}
	return &c
}

// maxDigests bounds the repositories of an image that are remembered.
const maxDigests = 16

// image is what is remembered of an image.
type image struct {
	only    container.Image   // its tag, if it has just one
	digests []container.Image // by which repositories know it
	pod     *container.Pod    // that its own labels claim
	task    *container.Task
}

var digestForm = regexp.MustCompile(`^[a-z0-9]{2,16}:[0-9a-f]{32,128}$`)

func newImage(tags, digests []string, labels map[string]string) *image {
	i := &image{}
	if len(tags) == 1 && tags[0] != "<none>:<none>" {
		i.only = container.Clean(&container.Container{Image: container.ParseImage(tags[0])}).Image
	}
	for _, reference := range digests {
		parsed := container.ParseImage(reference)
		if len(i.digests) < maxDigests && digestForm.MatchString(parsed.Digest) {
			i.digests = append(i.digests, container.Clean(&container.Container{Image: parsed}).Image)
		}
	}
	pod, task := claims(labels)
	claimed := container.Clean(&container.Container{Pod: pod, Task: task})
	i.pod, i.task = claimed.Pod, claimed.Task
	return i
}

// digest is the one by which the repository knows the image that the container's image is named for, or
// else another that has it too. It is "" for an image that was never in a repository.
func (i *image) digest(name string) string {
	for _, d := range i.digests {
		if familiar(d.Name) == familiar(name) {
			return d.Digest
		}
	}
	if len(i.digests) > 0 {
		return i.digests[0].Digest
	}
	return ""
}

// familiar is a name without what runtimes put before it. Docker leaves it out, Podman writes it.
func familiar(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
}

// ownName is the one without the names of links to it, which have a slash inside.
func ownName(names []string) string {
	for _, name := range names {
		if name = strings.TrimPrefix(name, "/"); !strings.Contains(name, "/") {
			return name
		}
	}
	return ""
}

// isDigits tells the 64 hex digits of a container or an image.
func isDigits(id string) bool {
	return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == ""
}
