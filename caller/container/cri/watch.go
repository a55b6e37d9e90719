package cri

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

// waiting bounds the events that wait until there is time for them. Those above are not lost for good:
// the next list has the containers.
const waiting = 4096

// watch is one call of Watch. One goroutine asks and tells, so that what is told of a container comes
// in the order in which it happened.
type watch struct {
	*client
	told  container.Listener
	known map[string]bool // containers and sandboxes that were told, and are not gone
}

// Watch implements [container.Source]. Events say which containers came; each is asked about at once.
func (s *Source) Watch(ctx context.Context, told container.Listener) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer c.close()
	defer cancel()

	if err := c.greet(ctx); err != nil {
		return err
	}
	w := &watch{client: c, told: told, known: make(map[string]bool)}
	events, ended := make(chan event, waiting), make(chan error, 1)
	if subscribed := c.subscription(); subscribed != nil {
		running.Go(func() { ended <- subscribed(ctx, func(e event) { offer(events, e) }) })
	} else {
		ended <- io.EOF
	}
	if err := w.list(ctx); err != nil {
		return err
	}
	told.Ready()
	return w.follow(ctx, events, ended)
}

// offer never waits: containerd keeps for each subscriber what it does not take.
func offer(events chan<- event, e event) {
	select {
	case events <- e:
	default:
	}
}

// follow tells of what happens, until the runtime fails.
func (w *watch) follow(ctx context.Context, events <-chan event, ended <-chan error) error {
	pulse := w.pace.pulse
	// The first comes soon: gRPC does not say when the runtime has begun to listen for us.
	next := time.NewTimer(w.pace.soon)
	defer next.Stop()
	for {
		var err error
		select {
		case e := <-events:
			err = w.happened(ctx, e)
		case cause := <-ended:
			if !errors.Is(cause, io.EOF) && status.Code(cause) != codes.Unimplemented {
				return w.failed("events", cause)
			}
			pulse = w.pace.lists
			w.sayLists()
		case <-next.C:
			err = w.list(ctx)
			next.Reset(pulse)
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// sayLists says once that there are no events. CRI-O ends them at once where they are not enabled.
func (s *Source) sayLists() {
	if s.saidLists.Swap(true) {
		return
	}
	r := s.runtime.Load()
	s.log.Info("this runtime tells no events: its containers are listed instead, and asked for as they call; CRI-O tells them since 1.28 with enable_pod_events",
		"source", name, "socket", s.socket, "runtime", r.name, "version", r.version, "every", s.pace.lists)
}

// happened looks at a container that came or ended. One that ended before anybody looked is told too.
func (w *watch) happened(ctx context.Context, e event) error {
	if !w.known[e.id] {
		if err := w.look(ctx, e.id); err != nil {
			return err
		}
	}
	if e.ended {
		w.gone(e.id)
	}
	return nil
}

func (w *watch) look(ctx context.Context, id string) error {
	found, err := w.container(ctx, id)
	switch {
	case refused(err):
		return nil
	case err != nil:
		return err
	case found != nil:
		return w.here(ctx, found)
	}
	// containerd 1.6 has a sandbox's task before the sandbox. It is told with the pod's first container.
	pod, err := w.pod(ctx, id)
	if pod != nil {
		w.tell(w.sandbox(id, pod))
	}
	return err
}

// list tells of what no event told, and of what ended without.
func (w *watch) list(ctx context.Context) error {
	all, err := w.all(ctx)
	if err != nil {
		return err
	}
	there := make(map[string]bool, 2*len(all.Containers))
	for _, found := range all.Containers {
		if found == nil || !isDigits(found.Id) || found.State == criapi.ContainerState_CONTAINER_EXITED {
			continue
		}
		there[found.Id], there[found.PodSandboxId] = true, true
		if w.known[found.Id] {
			continue
		}
		if err := w.here(ctx, found); err != nil {
			return err
		}
	}
	for id := range w.known {
		if !there[id] {
			w.gone(id)
		}
	}
	return nil
}

func (w *watch) all(ctx context.Context) (*criapi.ListContainersResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*w.pace.patience)
	defer cancel()
	all, err := w.runtimeService.ListContainers(ctx, &criapi.ListContainersRequest{})
	if err != nil {
		return nil, w.failed("ListContainers", err)
	}
	return all, nil
}

// here tells of a container, and of its sandbox if that was not.
func (w *watch) here(ctx context.Context, found *criapi.Container) error {
	pod, err := w.pod(ctx, found.PodSandboxId)
	if err != nil {
		return err
	}
	i, err := w.image(ctx, imageKey(found))
	if err != nil {
		return err
	}
	w.tell(w.made(found, pod, i))
	if found.State == criapi.ContainerState_CONTAINER_EXITED {
		w.gone(found.Id)
	} else if pod != nil && !w.known[found.PodSandboxId] {
		w.tell(w.sandbox(found.PodSandboxId, pod))
	}
	return nil
}

func (w *watch) tell(c *container.Container) {
	w.known[c.ID] = true
	w.told.Here(c)
}

func (w *watch) gone(id string) {
	delete(w.known, id)
	w.told.Gone(id)
}
