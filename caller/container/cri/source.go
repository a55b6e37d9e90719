// Package cri knows containers and their pods from the Container Runtime Interface (CRI, v1) of containerd,
// CRI-O and others. It reads and changes nothing.
package cri

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
)

// kept bounds the pods and the images that are remembered here: more than a node has.
const kept = 1024

// name of all these sources. [container.Container.Runtime] tells the runtimes apart.
const name = "cri"

// Source is one runtime. It is safe for concurrent use, and keeps no connection while nobody watches.
type Source struct {
	log    *slog.Logger
	socket string
	pace   pace

	runtime   atomic.Pointer[runtime]
	pods      *lru.Cache[string, *container.Pod] // by sandbox, without container
	images    *lru.Cache[string, *image]         // by reference
	saidLists atomic.Bool
}

type pace struct {
	patience time.Duration // for one answer; a list has three times as long
	// pulse is how often all is listed that there is, beside the events. A runtime that hangs is as
	// silent as one that has nothing to tell.
	pulse time.Duration
	soon  time.Duration // the first pulse
	lists time.Duration // the pulse where there are no events
}

// runtime is what a runtime says of itself.
type runtime struct {
	name, version string
}

// New is for the runtime that listens on a unix socket. Nothing is asked yet.
func New(log *slog.Logger, socket string) *Source {
	return newSource(log, socket, pace{patience: 10 * time.Second, pulse: 30 * time.Second, soon: time.Second, lists: 2 * time.Second})
}

func newSource(log *slog.Logger, socket string, p pace) *Source {
	s := &Source{log: log, socket: socket, pace: p}
	s.pods, _ = lru.New[string, *container.Pod](kept) // fails for a size below 1 alone
	s.images, _ = lru.New[string, *image](kept)
	return s
}

// Name is cri.
func (s *Source) Name() string { return name }

// Inspect asks about a container or a pod's sandbox, running or not.
func (s *Source) Inspect(ctx context.Context, id string) (*container.Container, error) {
	if !isDigits(id) {
		return nil, container.ErrUnknown // a runtime would take it for the beginning of an id
	}
	c, err := s.dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	if s.runtime.Load() == nil {
		if err := c.greet(ctx); err != nil {
			return nil, err
		}
	}
	found, err := c.container(ctx, id)
	if err != nil {
		return nil, err
	}
	if found != nil {
		pod, _ := c.pod(ctx, found.PodSandboxId) // what is known without is worth having
		i, _ := c.image(ctx, imageKey(found))
		return s.made(found, pod, i), nil
	}
	pod, err := c.pod(ctx, id)
	if err != nil {
		return nil, err
	}
	if pod == nil {
		return nil, container.ErrUnknown
	}
	return s.sandbox(id, pod), nil
}

// greet asks the runtime what it is.
func (c *client) greet(ctx context.Context) error {
	version, err := call(ctx, c, "Version", c.runtimeService.Version, &criapi.VersionRequest{})
	if err != nil {
		return err
	}
	c.runtime.Store(&runtime{
		name:    strings.ToLower(caller.Printable(version.RuntimeName, 64)), // containerd, cri-o, docker
		version: caller.Printable(version.RuntimeVersion, 64),
	})
	return nil
}

// container asks about a container. It is nil without an error for one that the runtime does not have.
//
// It is asked for as a list, because a ContainerStatus does not tell the pod.
func (c *client) container(ctx context.Context, id string) (*criapi.Container, error) {
	all, err := call(ctx, c, "ListContainers", c.runtimeService.ListContainers, &criapi.ListContainersRequest{Filter: &criapi.ContainerFilter{Id: id}})
	if err != nil {
		return nil, err
	}
	for _, found := range all.Containers {
		if found.GetId() == id {
			return found, nil
		}
	}
	return nil, nil
}

// pod asks about the pod of a sandbox, once. It is nil without an error for one that is not to be had.
func (c *client) pod(ctx context.Context, id string) (*container.Pod, error) {
	if !isDigits(id) {
		return nil, nil
	}
	if pod, ok := c.pods.Get(id); ok {
		return pod, nil
	}
	found, err := call(ctx, c, "PodSandboxStatus", c.runtimeService.PodSandboxStatus, &criapi.PodSandboxStatusRequest{PodSandboxId: id})
	if refused(err) || err == nil && found.Status.GetId() != id {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pod := newPod(found.Status)
	c.pods.Add(id, pod)
	return pod, nil
}

// image asks about an image, once. It is nil without an error for one that is not to be had.
func (c *client) image(ctx context.Context, reference string) (*image, error) {
	if reference == "" {
		return nil, nil
	}
	if i, ok := c.images.Get(reference); ok {
		return i, nil
	}
	found, err := call(ctx, c, "ImageStatus", c.imageService.ImageStatus, &criapi.ImageStatusRequest{Image: &criapi.ImageSpec{Image: reference}})
	if refused(err) || err == nil && found.Image == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	i := newImage(found.Image)
	if len(reference) <= maxReference {
		c.images.Add(reference, i)
	}
	return i, nil
}
