package container

import (
	"context"
	"errors"
)

// ErrUnknown is what a source answers about a container that it does not have.
var ErrUnknown = errors.New("no such container")

// Source is one that knows of containers.
type Source interface {
	// Name is short, and stands in [Container.From]: docker, podman, cri, kubernetes, ecs.
	Name() string
	// Watch tells of all containers that there are, then of each that comes, changes or goes, until ctx
	// ends or the source fails. It calls told.Ready once it has told of all that there are. It is called
	// again after it returned.
	Watch(ctx context.Context, told Listener) error
	// Inspect asks about one container. It returns [ErrUnknown] for one that the source does not have.
	Inspect(ctx context.Context, id string) (*Container, error)
}

// Optional is a source that may not be there, which is not worth a warning.
func Optional(s Source) Source { return optional{s} }

type optional struct{ Source }

func (s *source) isOptional() bool {
	_, ok := s.Source.(optional)
	return ok
}

// Listener is who is told by a source. Its functions return at once.
type Listener interface {
	Ready()
	// Here is for a container that came or changed.
	Here(*Container)
	Gone(id string)
	// Pod is for a pod that came or changed: the ids of its containers may not be known yet.
	Pod(*Pod)
	PodGone(uid string)
}
