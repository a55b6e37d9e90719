package hook

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// ContractVersion is that of the records that bridges share: CONTRACT_VERSION in bpf/contract.h.
// Two of different versions must not.
const ContractVersion = 1

// ErrIncompatible is returned by [Attach] for records that are of another make than its own.
var ErrIncompatible = errors.New("records of another version of the bridge")

// Records are what the kernel knows of who made which connection.
type Records struct {
	Sockets     *ebpf.Map // by the socket's cookie
	Connections *ebpf.Map // by both ends of the connection
}

// Records returns the hook's. They are the hook's own, and closed with it.
func (h *Hook) Records() Records {
	return Records{Sockets: h.objects.Sockets, Connections: h.objects.Connections}
}

// replace fits spec to the maps of another bridge, and returns them by name.
func (r *Records) replace(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	if r == nil {
		return nil, nil
	}
	shared := map[string]*ebpf.Map{hookMapSockets: r.Sockets, hookMapConnections: r.Connections}
	for name, m := range shared {
		if m == nil {
			return nil, fmt.Errorf("%w: no map %s", ErrIncompatible, name)
		}
		spec.Maps[name].MaxEntries = m.MaxEntries()
		if err := spec.Maps[name].Compatible(m); err != nil {
			return nil, fmt.Errorf("%w: map %s: %s", ErrIncompatible, name, err)
		}
	}
	return shared, nil
}
