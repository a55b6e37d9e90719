package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Options say where a lab is made. The zero value is right for most.
type Options struct {
	// Parent is the cgroup2 directory below which the scratch cgroup is made.
	// Empty means the top of the cgroup2 mount of this process.
	Parent string
}

// Lab is one instance, its metadata service and its containers. It is safe for concurrent use.
type Lab struct {
	scratch *scratch
	ipv6    bool
	imds    *Namespace
	host    *Namespace

	mu         sync.Mutex
	containers []*Namespace
	closed     bool
	closeErr   error
}

// ErrClosed is returned for work that is asked of a lab after [Lab.Close].
var ErrClosed = errors.New("lab is closed")

// New builds a lab and sweeps the cgroups of labs whose process has died.
//
// It needs CAP_SYS_ADMIN and CAP_NET_ADMIN; without them the error is [os.ErrPermission].
func New(o Options) (_ *Lab, err error) {
	l := &Lab{ipv6: kernelHasIPv6()}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.scratch, err = newScratch(o.Parent); err != nil {
		return nil, err
	}
	if l.imds, err = l.newNamespace(l.scratch.workload); err != nil {
		return nil, err
	}
	if l.host, err = l.newNamespace(l.scratch.workload); err != nil {
		return nil, err
	}
	if err = l.connectIMDS(); err != nil {
		return nil, err
	}
	return l, nil
}

// IMDS is the namespace in which 169.254.169.254 and fd00:ec2::254 are local addresses: a
// simulator that listens there is what the host and its containers reach. Nothing listens at first.
func (l *Lab) IMDS() *Namespace { return l.imds }

// Host is the namespace of the instance: the metadata service is one hop away.
func (l *Lab) Host() *Namespace { return l.host }

// Cgroup is the scratch cgroup2 directory, the one to attach a hook to. It holds what
// [Namespace.Start] started, the containers' processes in a directory for each container.
func (l *Lab) Cgroup() string { return l.scratch.workload }

// HasIPv6 is false where the kernel has IPv6 switched off; the lab then has IPv4 alone.
func (l *Lab) HasIPv6() bool { return l.ipv6 }

// AddContainer makes a namespace that reaches the metadata service through the host, which forwards.
//
// Its processes are put into the cgroup [Lab.Cgroup]/name: a name such as a container runtime
// gives, docker-<64 hex digits>.scope, makes them look like that runtime's.
func (l *Lab) AddContainer(name string) (_ *Namespace, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	if name == "" || name != filepath.Base(name) || name == "." || name == ".." {
		return nil, fmt.Errorf("container name %q is not a file name", name)
	}
	cgroup := filepath.Join(l.scratch.workload, name)
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup of container: %w", err)
	}
	n, err := l.newNamespace(cgroup)
	if err != nil {
		return nil, err
	}
	if err := l.connectContainer(n, len(l.containers)+1); err != nil {
		n.close()
		return nil, fmt.Errorf("connect container %s: %w", name, err)
	}
	l.containers = append(l.containers, n)
	return n, nil
}

// Close kills what still runs in the lab and takes the lab away. It does not close sockets that
// were opened in it; a namespace goes with its last one. Only the first call does anything.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.closeErr
	}
	l.closed = true
	if l.scratch != nil {
		l.closeErr = l.scratch.close()
	}
	for _, n := range append(l.containers, l.host, l.imds) {
		if n != nil {
			n.close()
		}
	}
	return l.closeErr
}
