package hook

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// Options say what to redirect to where. With neither Listen nor Listen6 nothing is: who calls IMDS
// is recorded under [Hook.Records], for whoever watches.
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
	// Mark is the SO_MARK that exempts a socket of the bridge's own network namespace. Its low 16
	// bits count, and so do the socket's.
	Mark uint32
	// CheckMark is the SO_MARK with which a socket of the bridge's own network namespace is
	// redirected whatever the heartbeat says: Mark, and in the upper 16 bits a number that no other
	// bridge has. Those exempt it, so that a bridge can prove its own hook beside theirs. Zero: none.
	CheckMark uint32
	// Heartbeat is how long the bridge may be silent before it gets no further calls.
	Heartbeat time.Duration
	// Connections bounds how many connections are remembered at once. Records have a bound of
	// their own.
	Connections uint32
	// Records are those of the bridge that this one takes over from: whichever of them accepts a
	// connection finds who made it. Both stay attached as long as they like. Optional; Attach
	// does not keep the maps given.
	Records *Records
	// FailClosed refuses the calls that a bridge that is dead, hung or unsure cannot have, with
	// EPERM: once the hook is pinned, those of one that is dead or was stopped too. See Pin.
	FailClosed bool
	// Succeeds says that the bridge of Records lives, and that what it has pinned is for this one to
	// take over. Without it there must be no pinned hook of a bridge that lives: see [ErrInUse].
	Succeeds bool
	// Pins is the directory where Pin puts the hook, of a bpf file system. Empty: that of [PinsOf].
	Pins string
	// Attaching is called when lookups work and just before the first call can arrive. Optional.
	Attaching func(*Hook)
}

// Hook is the hook in place: attached by [Attach], taken away by Detach, gone with Close.
//
// Its links are not pinned unless Pin does it: when the process dies the kernel takes the hook
// away, and calls go to IMDS as if the bridge had never been.
type Hook struct {
	objects   loaded
	links     []placed // in the order of attachment; the connect hooks come last
	watching  bool     // nothing is redirected
	heartbeat time.Duration
	cgroup    uint64 // its id
	pins      string // directory
	succeeds  bool

	mu       sync.Mutex
	detached bool
	closed   bool
	claim    *claimed           // the directory of pins, once they are ours
	final    map[Outcome]uint64 // the counters at Close: the last export comes after it
}

// loaded is what the kernel has of the hook.
type loaded struct {
	hookObjects
	Variables *ebpf.Map `ebpf:".bss"` // the heartbeat, and nothing else
}

func (l *loaded) Close() error { return errors.Join(l.hookObjects.Close(), l.Variables.Close()) }

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

	pins, err := PinsOf(o.Cgroup)
	if err != nil {
		return nil, err
	}
	h := &Hook{
		watching:  !o.Listen.IsValid() && !o.Listen6.IsValid(),
		heartbeat: o.Heartbeat,
		pins:      cmp.Or(o.Pins, pins),
		succeeds:  o.Succeeds,
	}
	if !h.watching && !h.succeeds {
		if err := CheckUnused(h.pins); err != nil {
			return nil, err
		}
	}
	if o.FailClosed {
		if err := checkPins(h.pins); err != nil {
			return nil, err
		}
	}
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
	shared, err := o.Records.replace(spec)
	if err != nil {
		return err
	}

	err = spec.LoadAndAssign(&h.objects, &ebpf.CollectionOptions{MapReplacements: shared})
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
	netns, err := redirect.OwnNetNS()
	if err != nil {
		return hookConfig{}, err
	}
	ownOnly := o.OwnNetNSOnly || o.Listen.Addr().IsLoopback() || o.Listen6.Addr().IsLoopback()
	c := hookConfig{HeartbeatLimit: uint64(o.Heartbeat), Mark: o.Mark, CheckMark: o.CheckMark, Netns: netns}
	if ownOnly {
		c.OwnNetnsOnly = 1
	}
	if o.FailClosed {
		c.FailClosed = 1
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

// Beat tells the kernel that the bridge is alive. It must be called more often than
// Options.Heartbeat; a bridge that does not gets no further calls.
func (h *Hook) Beat() error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return os.ErrClosed
	}
	if h.detached {
		return nil // it serves no further calls
	}
	return h.beat(now)
}

// beat writes when the bridge gave, or is taken to give, its last sign of life.
func (h *Hook) beat(at time.Duration) error {
	if err := h.objects.Heartbeat.Set(uint64(at)); err != nil {
		return fmt.Errorf("write the heartbeat: %w", err)
	}
	return nil
}

// monotonic is the time by the clock of bpf_ktime_get_ns.
func monotonic() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

// Detach stops redirecting: new calls go to IMDS as they are, or are refused if the hook is pinned.
// Connections made before it can still be looked up until Close. It is idempotent.
func (h *Hook) Detach() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.detached {
		return nil
	}
	h.detached = true
	redirecting := h.links[h.firstConnect():]
	if slices.ContainsFunc(redirecting, func(p placed) bool { return p.pinned }) {
		return errors.Join(h.beat(0), detachLinks(redirecting))
	}
	return detachLinks(redirecting)
}

// Close takes away all that Attach made, and leaves what Pin pinned. It is idempotent, and must not
// come before the last Lookup has returned.
func (h *Hook) Close() error {
	err := h.Detach()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	return errors.Join(err, detachLinks(h.links[:h.firstConnect()]), h.release())
}

// release gives up what the process has of the kernel, but for links. The lock is held.
func (h *Hook) release() (err error) {
	h.closed = true
	if h.objects.Counters != nil {
		h.final, err = h.counters()
	}
	if h.claim != nil {
		err = errors.Join(err, h.claim.Close())
	}
	return errors.Join(err, h.objects.Close())
}
