package kubernetes

// The part of Kubernetes' objects that is read.

type metadata struct {
	Name, Namespace, UID, ResourceVersion string
	Labels, Annotations                   map[string]string
	OwnerReferences                       []owner
}

type owner struct {
	APIVersion, Kind, Name, UID string
	Controller                  bool
}

// owner is the one that made the object and would make it again, else the first of those that it ends
// with.
func (m *metadata) owner() owner {
	for _, o := range m.OwnerReferences {
		if o.Controller {
			return o
		}
	}
	if len(m.OwnerReferences) > 0 {
		return m.OwnerReferences[0]
	}
	return owner{}
}

type podObject struct {
	Metadata metadata
	Spec     struct {
		ServiceAccountName                              string
		HostNetwork                                     bool
		InitContainers, Containers, EphemeralContainers []struct{ Name, Image string }
	}
	Status struct {
		InitContainerStatuses, ContainerStatuses, EphemeralContainerStatuses []containerStatus
	}
}

type containerStatus struct {
	Name                        string
	ContainerID, Image, ImageID string
	State, LastState            struct {
		Running    *struct{}
		Terminated *struct{ ContainerID string }
	}
}
