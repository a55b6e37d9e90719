package cri

import (
	"maps"
	"regexp"
	"strings"

	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

// sandboxName is what the container is called that holds a pod's namespaces, as in the kubelet.
const sandboxName = "POD"

// Labels that the kubelet sets. It overwrites those of a pod that have the same names.
const (
	podName       = "io.kubernetes.pod.name"
	podNamespace  = "io.kubernetes.pod.namespace"
	podUID        = "io.kubernetes.pod.uid"
	containerName = "io.kubernetes.container.name"
)

// lastApplied is an annotation that repeats the pod's specification, environment included.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// sources are shared by all containers.
var sources = []string{name}

// made puts together what is known of a container. Its pod and its image are nil where nothing is.
func (s *Source) made(found *criapi.Container, pod *container.Pod, i *image) *container.Container {
	own := found.Labels[containerName]
	if own == "" {
		own = found.Metadata.GetName()
	}
	c := container.Clean(&container.Container{
		ID: found.Id, Runtime: s.runtime.Load().name, Name: found.Metadata.GetName(),
		Image: reference(found), Labels: found.Labels, From: sources,
		// What the kubelet's labels tell.
		Pod: &container.Pod{Name: found.Labels[podName], Namespace: found.Labels[podNamespace], UID: found.Labels[podUID], Container: own},
	})
	if pod != nil {
		of := *pod // its labels are shared by the pod's containers
		of.Container = c.Pod.Container
		c.Pod = &of
	} else if c.Pod.UID == "" {
		c.Pod = nil
	}
	i.complete(&c.Image)
	return c
}

// sandbox is the container that holds a pod's namespaces.
func (s *Source) sandbox(id string, pod *container.Pod) *container.Container {
	return &container.Container{ID: id, Runtime: s.runtime.Load().name, Name: sandboxName, Pod: pod, From: sources}
}

// newPod is without a container.
func newPod(found *criapi.PodSandboxStatus) *container.Pod {
	labels, annotations := maps.Clone(found.Labels), maps.Clone(found.Annotations)
	for _, known := range []string{podName, podNamespace, podUID} {
		delete(labels, known)
	}
	delete(annotations, lastApplied)
	return container.CleanPod(&container.Pod{
		Name: found.Metadata.GetName(), Namespace: found.Metadata.GetNamespace(), UID: found.Metadata.GetUid(),
		HostNetwork: found.GetLinux().GetNamespaces().GetOptions().GetNetwork() == criapi.NamespaceMode_NODE,
		Labels:      labels, Annotations: annotations,
	})
}

const (
	// maxNames bounds the names of an image that are remembered.
	maxNames     = 16
	maxReference = 1024
)

// image is what is remembered of an image.
type image struct {
	id            string
	tags, digests []container.Image
}

var digestForm = regexp.MustCompile(`^[a-z0-9]{2,16}:[0-9a-f]{32,128}$`)

func newImage(found *criapi.Image) *image {
	return &image{id: parse(found.Id).ID, tags: parseAll(found.RepoTags), digests: parseAll(found.RepoDigests)}
}

func parseAll(references []string) []container.Image {
	var all []container.Image
	for _, reference := range references[:min(len(references), maxNames)] {
		i := parse(reference)
		if i.Name != "" && i.Name != "<none>" && (i.Digest == "" || digestForm.MatchString(i.Digest)) {
			all = append(all, container.Clean(&container.Container{Image: i}).Image)
		}
	}
	return all
}

// parse reads a reference. CRI-O's ids have no algorithm before them.
func parse(reference string) container.Image {
	if isDigits(reference) {
		reference = "sha256:" + reference
	}
	return container.ParseImage(reference)
}

// reference is the image as whoever made the container called it. A kubelet calls it by its id, and newer ones
// say beside it what stands in the pod's specification.
func reference(found *criapi.Container) container.Image {
	i := parse(found.Image.GetUserSpecifiedImage())
	if i.Name == "" {
		i = parse(found.Image.GetImage())
	}
	if i.Name != "" && i.Tag == "" && i.Digest == "" {
		i.Tag = "latest" // is what runtimes take it for
	}
	digested := parse(found.ImageRef)
	if i.Name == "" {
		i.Name = digested.Name
	}
	if i.Digest == "" && familiar(i.Name) == familiar(digested.Name) {
		i.Digest = digested.Digest
	}
	if i.ID == "" {
		i.ID = digested.ID
	}
	if i.ID == "" {
		i.ID = parse(found.ImageId).ID
	}
	return i
}

// imageKey is what the runtime is asked by for a container's image.
func imageKey(found *criapi.Container) string {
	for _, key := range []string{found.ImageId, found.ImageRef, found.Image.GetImage()} {
		if key != "" {
			return key
		}
	}
	return ""
}

// complete adds what is not known. An image may have several names: which of them the container was made
// by is then unknown.
func (i *image) complete(c *container.Image) {
	if i == nil {
		return
	}
	if i.id != "" {
		c.ID = i.id
	}
	if c.Name == "" {
		c.Name = onlyName(append(i.tags[:len(i.tags):len(i.tags)], i.digests...))
	}
	if c.Name == "" {
		return
	}
	if tags := named(i.tags, c.Name); c.Tag == "" && len(tags) == 1 {
		c.Tag = tags[0].Tag
	}
	if digests := named(i.digests, c.Name); c.Digest == "" && len(digests) == 1 {
		c.Digest = digests[0].Digest
	}
}

// onlyName is the name that all of an image's references have.
func onlyName(all []container.Image) (name string) {
	for _, i := range all {
		if name != "" && i.Name != name {
			return ""
		}
		name = i.Name
	}
	return name
}

func named(all []container.Image, name string) (same []container.Image) {
	for _, i := range all {
		if familiar(i.Name) == familiar(name) {
			same = append(same, i)
		}
	}
	return same
}

// familiar is a name without what runtimes put before it, and people leave out.
func familiar(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
}

// isDigits tells the 64 hex digits of a container, a sandbox or an image.
func isDigits(id string) bool {
	return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == ""
}
