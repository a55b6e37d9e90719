package watch

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// ErrUnsupported is returned by [Attach] when the running kernel lacks what the watch needs.
var ErrUnsupported = errors.New("the kernel lacks what the watch needs")

// Options say what to watch and who is to be told.
type Options struct {
	// Cgroup is the cgroup2 directory whose processes are watched, its descendants' included.
	Cgroup string
	// Mark is the low 16 bits of the SO_MARK with which a socket of the bridge's own network namespace
	// is passed over. 0 passes over none.
	Mark uint32
	// OwnNetNS says that only the calling thread's network namespace is watched.
	OwnNetNS bool
	// Sockets is the map in which connect hooks record callers by socket cookie. It stays the caller's,
	// who may close it. Nil: nobody is recorded.
	Sockets *ebpf.Map
	// Owner says who has a socket that is not in Sockets. Optional.
	Owner Owner
	// Few says that no more than some calls are expected, as beside a redirector: it saves 7 MiB.
	Few bool
	// Met gets each recorded caller with the first packet of its connection, when it still waits for an
	// answer: by the time that Seen is told, a short-lived one is gone. Optional.
	Met func(redirect.Connection)
	// Seen gets each exchange, one after the other, about in the order in which they end. Those that find
	// no place while it runs are dropped and counted.
	Seen func(Exchange)
}

// bounds are how much may wait for whoever reads it.
type bounds struct {
	ring      uint32 // bytes, between kernel and user space
	exchanges int    // that wait to be told
}

// A call takes less than 4 KiB of the ring: at 2,000 calls a second the reader may be held up for half a
// second before any is lost.
var usualBounds = bounds{ring: 4 << 20, exchanges: 1024}

// The kernel maps the ring twice, and all of it counts as the process's memory.
var fewBounds = bounds{ring: 512 << 10, exchanges: 1024}

// Watch is the watch in place: attached by [Attach], blind after Detach, gone with Close.
//
// Its links are not pinned: they go with the process.
type Watch struct {
	objects watchObjects
	links   []link.Link
	ring    *ring
	owner   Owner
	counts  counts

	// earlier are who had sockets at Attach, by cookie. Touched by read alone once that runs.
	earlier   map[uint64]*identity
	questions chan question
	met       chan redirect.Connection
	unnamed   chan telling // of whom the owner is looked for
	exchanges chan telling
	closing   chan struct{}
	running   sync.WaitGroup

	mu       sync.Mutex
	detached bool
	closed   bool
	final    map[Count]uint64 // the counters at Close: the last export comes after it
}

// Attach puts the watch in place. Exchanges may be told before it returns.
//
// It needs [Capabilities], and returns an error that is [ErrUnsupported] where the kernel
// cannot do it. Nothing is left behind by an error.
func Attach(o Options) (*Watch, error) {
	if o.Few {
		return attach(o, fewBounds)
	}
	return attach(o, usualBounds)
}

func attach(o Options, b bounds) (_ *Watch, err error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("make kernel maps (needs %v; before Linux 5.11 also LimitMEMLOCK=infinity): %w", Capabilities, err)
	}
	cgroup, err := redirect.OpenCgroup(o.Cgroup)
	if err != nil {
		return nil, err
	}
	defer cgroup.Close()

	w := &Watch{
		owner:     o.Owner,
		questions: make(chan question, maxQuestions),
		met:       make(chan redirect.Connection, maxQuestions),
		unnamed:   make(chan telling, b.exchanges),
		exchanges: make(chan telling, b.exchanges),
		closing:   make(chan struct{}),
		earlier:   make(map[uint64]*identity),
	}
	netns, err := w.load(o, b.ring)
	if err != nil {
		return nil, err
	}
	if w.ring, err = openRing(w.objects.Packets); err != nil {
		return nil, errors.Join(fmt.Errorf("map the ring of packets: %w", err), w.objects.Close())
	}
	w.askEarlier(netns)
	w.running.Go(w.findOwners)
	w.running.Go(func() { w.read(netns) })
	w.running.Go(w.await)
	w.running.Go(func() { w.meet(o.Met) })
	w.running.Go(func() { w.report(o.Seen) })
	if err := w.attach(cgroup); err != nil {
		return nil, errors.Join(fmt.Errorf("attach to %s: %w", o.Cgroup, err), w.Close())
	}
	return w, nil
}

// load loads the programs. It returns the network namespace in which the bridge's own sockets are.
func (w *Watch) load(o Options, ringSize uint32) (netns uint32, err error) {
	spec, err := loadWatch()
	if err != nil {
		return 0, fmt.Errorf("read the embedded kernel program: %w", err)
	}
	if netns, err = redirect.OwnNetNS(); err != nil {
		return 0, err
	}
	exempt := watchExempt{Mark: o.Mark, Netns: netns}
	if o.Mark == 0 {
		exempt.Netns = 0 // no namespace has it
	}
	if err := spec.Variables[watchVarExempt].Set(exempt); err != nil {
		return 0, fmt.Errorf("configure the kernel program: %w", err)
	}
	if o.OwnNetNS {
		if err := spec.Variables[watchVarOnlyNetns].Set(netns); err != nil {
			return 0, fmt.Errorf("configure the kernel program: %w", err)
		}
	}
	spec.Maps[watchMapPackets].MaxEntries = ringSize
	var options ebpf.CollectionOptions
	if o.Sockets != nil {
		spec.Maps[watchMapSockets].MaxEntries = o.Sockets.MaxEntries()
		options.MapReplacements = map[string]*ebpf.Map{watchMapSockets: o.Sockets}
	}

	err = spec.LoadAndAssign(&w.objects, &options)
	var verifier *ebpf.VerifierError
	switch {
	case err == nil:
		return netns, nil
	case errors.Is(err, unix.EPERM):
		return 0, fmt.Errorf("load the kernel program (needs %v): %w", Capabilities, err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return 0, fmt.Errorf("%w (Linux 5.10 or newer, with CONFIG_DEBUG_INFO_BTF): %s", ErrUnsupported, err)
	case errors.As(err, &verifier):
		// Version and BTF are there: what is left is CAP_PERFMON, without which the verifier refuses.
		return 0, fmt.Errorf("load the kernel program (needs %v): %+v", Capabilities, verifier)
	default:
		return 0, fmt.Errorf("load the kernel program: %w", err)
	}
}

func (w *Watch) attach(cgroup *os.File) error {
	// Answers first: one that nobody is seen to ask for is passed over.
	for _, a := range []struct {
		program *ebpf.Program
		where   ebpf.AttachType
	}{
		{w.objects.Ingress, ebpf.AttachCGroupInetIngress},
		{w.objects.Egress, ebpf.AttachCGroupInetEgress},
	} {
		// A link and nothing else: link.AttachCgroup falls back to an attachment that
		// outlives the process.
		l, err := link.AttachRawLink(link.RawLinkOptions{
			Target:  int(cgroup.Fd()),
			Program: a.program,
			Attach:  a.where,
		})
		switch {
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("%s: %w (needs CAP_NET_ADMIN; or another program holds the hook alone: see bpftool cgroup tree)", a.where, err)
		case err != nil:
			return fmt.Errorf("%s: %w", a.where, err)
		}
		w.links = append(w.links, l)
	}
	return nil
}

// Detach stops watching: packets are not seen any more. What was seen is told until Close. It is
// idempotent.
func (w *Watch) Detach() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.detached {
		return nil
	}
	w.detached = true
	var errs []error
	for _, l := range w.links {
		// To close alone is not enough: a process that was just forked has a copy until its exec.
		errs = append(errs, l.Detach(), l.Close())
	}
	return errors.Join(errs...)
}

// Close takes away all that Attach made, after Seen has got what was seen. It is idempotent.
func (w *Watch) Close() error {
	err := w.Detach()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	close(w.closing)
	err = errors.Join(err, w.ring.end())
	w.running.Wait()
	final, countErr := w.counters()
	w.final = final
	return errors.Join(err, countErr, w.ring.close(), w.objects.Close())
}

// monotonic is now, as the kernel program tells the time.
func monotonic() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail with a clock that exists
	return time.Duration(now.Nano())
}
