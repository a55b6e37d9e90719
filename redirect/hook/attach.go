package hook

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// Options say what to redirect to where.
type Options struct {
	// Cgroup is the cgroup2 directory whose processes are redirected, its descendants' included.
	Cgroup string
	// Listen receives connections for 169.254.169.254. The zero value leaves them alone.
	Listen netip.AddrPort
	// Listen6 receives connections for fd00:ec2::254. The zero value leaves them alone.
	Listen6 netip.AddrPort
	// OwnNetNSOnly leaves callers in other network namespaces alone. A listener on loopback cannot
	// be reached from there, and leaves them alone in any case.
	OwnNetNSOnly bool
	// Mark is the SO_MARK that exempts a socket of the bridge's own network namespace.
	Mark uint32
	// Heartbeat is how long the bridge may be silent before calls are let through unchanged.
	Heartbeat time.Duration
	// Connections bounds how many connections are remembered at once.
	Connections uint32
	// Attaching is called when lookups work and just before the first call can arrive. Optional.
	Attaching func(*Hook)
}

// Hook is the hook in place: attached by [Attach], taken away by Detach, gone with Close.
//
// Its links are not pinned: when the process dies the kernel takes the hook away, and calls
// go to IMDS as if the bridge had never been.
type Hook struct {
	objects hookObjects
	links   []link.Link // in the order of attachment; the connect hooks come last
	connect int         // index of the first connect hook in links

	mu       sync.Mutex
	detached bool
	closed   bool
	final    map[Outcome]uint64 // the counters at Close: the last export comes after it
}

// Attach puts the hook in place. The listeners must accept already, and the first calls may
// arrive before Attach returns.
//
// It needs [Capabilities], and returns an error that is [ErrUnsupported] where the kernel
// cannot do it. Nothing is left behind by an error.
func Attach(o Options) (_ *Hook, err error) {
	if err := checkKernel(); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("make kernel maps (needs %v; before Linux 5.11 also LimitMEMLOCK=infinity): %w", Capabilities, err)
	}
	cgroup, err := redirect.OpenCgroup(o.Cgroup)
	if err != nil {
		return nil, err
	}
	defer cgroup.Close()

	h := &Hook{}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	if err := h.load(o); err != nil {
		return nil, err
	}
	if err := h.Beat(); err != nil {
		return nil, err
	}
	if o.Attaching != nil {
		o.Attaching(h)
	}
	if err := h.attach(cgroup); err != nil {
		return nil, fmt.Errorf("attach to %s: %w", o.Cgroup, err)
	}
	return h, nil
}

func (h *Hook) load(o Options) error {
	spec, err := loadHook()
	if err != nil {
		return fmt.Errorf("read the embedded kernel program: %w", err)
	}
	config, err := newConfig(o)
	if err != nil {
		return err
	}
	if err := spec.Variables[hookVarSettings].Set(config); err != nil {
		return fmt.Errorf("configure the kernel program: %w", err)
	}
	entries, err := lruEntries(o.Connections)
	if err != nil {
		return err
	}
	spec.Maps[hookMapSockets].MaxEntries = entries
	spec.Maps[hookMapConnections].MaxEntries = entries

	err = spec.LoadAndAssign(&h.objects, nil)
	var verifier *ebpf.VerifierError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("load the kernel program (needs %v): %w", Capabilities, err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w: %s", ErrUnsupported, err)
	case errors.As(err, &verifier):
		// Version and BTF are there: what is left is CAP_PERFMON, without which the verifier refuses.
		return fmt.Errorf("load the kernel program (needs %v): %+v", Capabilities, verifier)
	default:
		return fmt.Errorf("load the kernel program: %w", err)
	}
}

// lruPerCPU is how many free entries of an LRU map each CPU may keep to itself (LOCAL_FREE_TARGET
// in kernel/bpf/bpf_lru_list.c). They come on top: a map without them would evict records of
// connections that live.
const lruPerCPU = 128

func lruEntries(connections uint32) (uint32, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return 0, fmt.Errorf("count CPUs: %w", err)
	}
	return connections + lruPerCPU*uint32(cpus), nil
}

func newConfig(o Options) (hookConfig, error) {
	netns, err := ownNetNS()
	if err != nil {
		return hookConfig{}, err
	}
	ownOnly := o.OwnNetNSOnly || o.Listen.Addr().IsLoopback() || o.Listen6.Addr().IsLoopback()
	c := hookConfig{HeartbeatLimit: uint64(o.Heartbeat), Mark: o.Mark, Netns: netns}
	if ownOnly {
		c.OwnNetnsOnly = 1
	}
	if o.Listen.IsValid() {
		c.ListenIp4 = words(o.Listen.Addr())[3]
		c.ListenPort4 = networkOrder(o.Listen.Port())
	}
	if o.Listen6.IsValid() {
		c.ListenIp6 = words(o.Listen6.Addr())
		c.ListenPort6 = networkOrder(o.Listen6.Port())
	}
	return c, nil
}

// ownNetNS returns the inode number of this thread's network namespace.
func ownNetNS() (uint32, error) {
	var s unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &s); err != nil {
		return 0, fmt.Errorf("read own network namespace: %w", err)
	}
	return uint32(s.Ino), nil
}

func (h *Hook) attach(cgroup *os.File) error {
	// What a redirected connection needs comes first, what redirects comes last.
	for _, a := range []struct {
		program *ebpf.Program
		where   ebpf.AttachType
	}{
		{h.objects.SockOps, ebpf.AttachCGroupSockOps},
		{h.objects.Getpeername4, ebpf.AttachCgroupInet4GetPeername},
		{h.objects.Getpeername6, ebpf.AttachCgroupInet6GetPeername},
		{h.objects.Connect4, ebpf.AttachCGroupInet4Connect},
		{h.objects.Connect6, ebpf.AttachCGroupInet6Connect},
	} {
		if a.where == ebpf.AttachCGroupInet4Connect {
			h.connect = len(h.links)
		}
		// A link and nothing else: link.AttachCgroup falls back to an attachment that
		// outlives the process, and would redirect to nowhere after a crash.
		l, err := link.AttachRawLink(link.RawLinkOptions{
			Target:  int(cgroup.Fd()),
			Program: a.program,
			Attach:  a.where,
		})
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%s: %w (a capability is missing, or another program holds the hook alone: see bpftool cgroup tree)", a.where, err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", a.where, err)
		}
		h.links = append(h.links, l)
	}
	return nil
}

// Beat tells the kernel that the bridge is alive. It must be called more often than
// Options.Heartbeat; a bridge that does not gets no further calls.
func (h *Hook) Beat() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the monotonic clock: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return os.ErrClosed
	}
	if err := h.objects.Heartbeat.Set(uint64(now.Nano())); err != nil {
		return fmt.Errorf("write the heartbeat: %w", err)
	}
	return nil
}

// Detach stops redirecting: new calls go to IMDS as they are. Connections made before it can
// still be looked up until Close. It is idempotent.
func (h *Hook) Detach() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.detached {
		return nil
	}
	h.detached = true
	return closeLinks(h.links[h.connect:])
}

// Close takes away all that Attach made. It is idempotent.
func (h *Hook) Close() error {
	err := h.Detach()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	if h.objects.Counters != nil {
		final, countErr := h.counters()
		h.final, err = final, errors.Join(err, countErr)
	}
	return errors.Join(err, closeLinks(h.links[:h.connect]), h.objects.Close())
}

func closeLinks(links []link.Link) error {
	var errs []error
	for _, l := range links {
		// To close alone is not enough: a process that was just forked has a copy until its exec.
		errs = append(errs, l.Detach(), l.Close())
	}
	return errors.Join(errs...)
}
