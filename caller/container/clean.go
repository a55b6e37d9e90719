package container

import (
	"slices"

	"github.com/imds-bridge/imds-bridge/caller"
)

// Bounds of what is kept of a container, whatever its maker wrote.
const (
	maxText   = 256 // bytes of a name, a key or a value
	maxLabels = 64  // the first by name
)

// Clean makes what a source read harmless to logs and terminals, and short. Each source calls it on
// what it makes, before anybody else sees it.
func Clean(c *Container) *Container {
	for _, text := range []*string{
		&c.ID, &c.Runtime, &c.Name, &c.Image.Name, &c.Image.Tag, &c.Image.Digest, &c.Image.ID,
	} {
		*text = clean(*text)
	}
	c.Labels = cleanLabels(c.Labels)
	if c.Pod != nil {
		c.Pod = CleanPod(c.Pod)
	}
	if t := c.Task; t != nil {
		for _, text := range []*string{&t.Cluster, &t.ARN, &t.Family, &t.Revision, &t.Service, &t.Container} {
			*text = clean(*text)
		}
	}
	return c
}

// CleanPod does the same for a pod.
func CleanPod(p *Pod) *Pod {
	for _, text := range []*string{
		&p.Name, &p.Namespace, &p.UID, &p.Container, &p.ServiceAccount, &p.Node, &p.Workload.Kind, &p.Workload.Name,
	} {
		*text = clean(*text)
	}
	p.Labels, p.Annotations = cleanLabels(p.Labels), cleanLabels(p.Annotations)
	return p
}

func clean(s string) string { return caller.Printable(s, maxText) }

func cleanLabels(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	keys := make([]string, 0, len(labels))
	for key := range labels {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	cleaned := make(map[string]string, min(len(keys), maxLabels))
	for _, key := range keys[:min(len(keys), maxLabels)] {
		cleaned[clean(key)] = clean(labels[key])
	}
	return cleaned
}
