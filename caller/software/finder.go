package software

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/imds-bridge/imds-bridge/caller"
)

const (
	// defaultImages is how many processes are remembered, of 150 bytes each; what they run is shared.
	defaultImages = 16384
	// maxKnown is how many executables, and scripts of interpreters, are remembered.
	maxKnown = 2048
	// freshFor is how long what was found is told of processes that start. Libraries beside an
	// interpreter change without it. A process keeps what it started with.
	freshFor = 10 * time.Minute
	// maxQueued bounds the looks that wait; each holds three descriptors.
	maxQueued = 32
	workers   = 2
	// restFor is how many times as long as a look took its worker rests: both together take half of
	// one CPU at most, however many programs start.
	restFor = 3
	// maxLook ends a look. One that a file system holds is left to itself then.
	maxLook = 3 * time.Second
	// maxUnderWay bounds the looks that have begun, with those left to themselves; each may hold a thread
	// for as long as a file system does not answer. No user's processes get more than maxOfUser.
	maxUnderWay = 16
	maxOfUser   = 4
	// patience is how long Close waits for looks that a file system holds.
	patience = time.Second
)

// Options of a [Finder]. The zero value is ready to use.
type Options struct {
	// Proc is where the procfs of the initial pid namespace is mounted; "" means /proc.
	Proc string
	// Images is how many processes are remembered; 0 means 16384.
	Images int
	// Libraries are the names looked for, by ecosystem; nil means those known to call IMDS.
	Libraries map[string][]string
	// Log is told once of a file system that does not answer; nil means nobody.
	Log *slog.Logger
}

// Finder finds the software of processes. It looks once at each executable, and for an interpreter
// at each script and working directory, in the background. It is safe for concurrent use.
//
// With CAP_SYS_PTRACE, one of [caller.Capabilities], it reads of other users' processes the files
// that everybody may read.
type Finder struct {
	proc    string
	offset  time.Duration // of our time namespace
	ownPIDs bool          // proc numbers processes as our own pid namespace does
	wanted  map[string][]string
	seed    maphash.Seed
	log     *slog.Logger

	namespaces bool          // the kernel has them
	maxLook    time.Duration // the constant, except in tests
	warned     sync.Once

	mu       sync.Mutex
	images   *simplelru.LRU[image, *Software]
	known    *simplelru.LRU[identity, answer]
	packages *simplelru.LRU[ownedFile, owned]
	pending  map[identity]bool
	underWay map[image]uint32 // what the workers look at, and by whom it is run

	jobs    chan *process
	dropped atomic.Int64
	ctx     context.Context
	cancel  context.CancelFunc
	working sync.WaitGroup
}

// image is one program of one process.
type image struct {
	pid     uint32
	started time.Duration
	execID  uint64
}

// answer is what is known of an identity.
type answer struct {
	software *Software
	varies   bool // it depends on what is run: ask with identity.runs
	until    time.Time
}

// New returns a Finder. It must be closed.
func New(o Options) (*Finder, error) {
	f, err := newIdle(o)
	if err != nil {
		return nil, err
	}
	for range workers {
		f.working.Go(f.work)
	}
	return f, nil
}

// newIdle returns a Finder without workers.
func newIdle(o Options) (*Finder, error) {
	f := &Finder{
		proc:    cmp.Or(o.Proc, "/proc"),
		wanted:  o.Libraries,
		seed:    maphash.MakeSeed(),
		log:     cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		maxLook: maxLook,
		pending: make(map[identity]bool),
		jobs:    make(chan *process, maxQueued),

		underWay: make(map[image]uint32),
	}
	if f.wanted == nil {
		f.wanted = speakers
	}
	var err error
	if f.images, err = simplelru.NewLRU[image, *Software](cmp.Or(o.Images, defaultImages), nil); err != nil {
		return nil, fmt.Errorf("remember %d processes: %w", o.Images, err)
	}
	// The constants are positive, which is all that is asked of a size.
	f.known, _ = simplelru.NewLRU[identity, answer](maxKnown, nil)
	f.packages, _ = simplelru.NewLRU[ownedFile, owned](maxKnown, nil)
	self, err := os.Readlink(f.proc + "/self")
	f.ownPIDs = err == nil && self == strconv.Itoa(os.Getpid())
	_, err = os.Lstat(f.proc + "/self/ns/mnt")
	f.namespaces = err == nil
	f.offset = bootOffset(f.proc)
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f, nil
}

// Close ends the looks under way. It waits at most a second for one that a file system holds up.
func (f *Finder) Close() {
	f.mu.Lock() // nothing is queued from now on
	f.cancel()
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		f.working.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
	}
	for {
		select {
		case p := <-f.jobs:
			p.close()
		default:
			return
		}
	}
}

// Dropped is how many times a look found no place in the queue, or did not begin because too many hang.
func (f *Finder) Dropped() int64 { return f.dropped.Load() }

// Of returns what the process of c runs, if that is known. Else it is looked at in the background,
// and a later call can tell. It never waits: for a process seen first it makes a dozen system calls in
// /proc, none of which reads the process's memory or asks a file system.
//
// c must be complete, for nothing else vouches that its pid is still its own.
func (f *Finder) Of(c *caller.Caller) (*Software, bool) {
	if c == nil || !c.Complete {
		return nil, false
	}
	img := imageOf(c)
	f.mu.Lock()
	s, ok := f.images.Get(img)
	f.mu.Unlock()
	if ok {
		return s, true
	}
	p, err := f.openProcess(c)
	if err != nil {
		return nil, false
	}
	if s, ok = f.recall(p); ok || !f.queue(p) {
		p.close()
	}
	return s, ok
}

func imageOf(c *caller.Caller) image { return image{c.PID, c.Origin.Started, c.ExecID} }

// recall returns what is known of another process with the same identity.
func (f *Finder) recall(p *process) (*Software, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.known.Get(p.id)
	if ok && a.varies {
		p.id.runs = f.runs(p)
		a, ok = f.known.Get(p.id)
	}
	if !ok || time.Now().After(a.until) {
		return nil, false
	}
	f.rememberImage(p, a.software)
	return a.software, true
}

// rememberImage keeps what a process runs for as long as it runs. If that is not all of it, it is
// asked for again when the answer has gone stale.
func (f *Finder) rememberImage(p *process, s *Software) {
	if s.Missing == "" {
		f.images.Add(imageOf(p.caller), s)
	}
}

// runs hashes what tells apart the programs of one interpreter: the script, the path that it was
// started by, where it runs and for whom. What is no interpreter by its name but contains one may
// take its program from any argument.
func (f *Finder) runs(p *process) uint64 {
	c := p.caller
	what := c.Args[:min(len(c.Args), 1)]
	if c.Program.Interpreter == "" {
		what = c.Args
	}
	var h maphash.Hash
	h.SetSeed(f.seed)
	for _, part := range append([]string{p.cwd, strconv.FormatUint(uint64(c.UID), 10), c.Program.Script}, what...) {
		_, _ = h.WriteString(part + "\x00")
	}
	return h.Sum64() | 1 // 0 is an identity without it
}

// queue asks for a look at p, and keeps it if it may.
func (f *Finder) queue(p *process) bool {
	if f.isPending(p) || p.hold() != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending[p.id] || f.ctx.Err() != nil {
		return false
	}
	select {
	case f.jobs <- p:
		f.pending[p.id] = true
		return true
	default:
		f.dropped.Add(1)
		return false
	}
}

func (f *Finder) isPending(p *process) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, begun := f.underWay[imageOf(p.caller)]
	return begun || f.pending[p.id]
}

func (f *Finder) work() {
	for {
		select {
		case <-f.ctx.Done():
			return
		case p := <-f.jobs:
			began := time.Now()
			id := p.id
			if _, ok := f.recall(p); ok || !f.begin(p) {
				p.close()
			} else {
				f.await(p)
			}
			f.mu.Lock()
			delete(f.pending, id)
			f.mu.Unlock()
			select {
			case <-f.ctx.Done():
			case <-time.After(restFor * time.Since(began)):
			}
		}
	}
}

// Look returns what the process of c runs, and waits for it until ctx ends.
func (f *Finder) Look(ctx context.Context, c *caller.Caller) (*Software, error) {
	if !c.Complete {
		return nil, fmt.Errorf("look at process %d: %w", c.PID, errOther)
	}
	p, err := f.openProcess(c)
	if err != nil {
		return nil, err
	}
	if err := p.hold(); err != nil {
		p.close()
		return nil, err
	}
	found := make(chan *Software, 1)
	go func() {
		defer p.close()
		found <- f.look(ctx, p, true)
	}()
	select {
	case s := <-found:
		return s, nil
	case <-ctx.Done(): // perhaps in the hands of a file system that hangs
		return nil, fmt.Errorf("look at process %d: %w", c.PID, ctx.Err())
	}
}

// remember keeps what was found of p.
func (f *Finder) remember(p *process, s *Software, varies bool) {
	until := time.Now().Add(freshFor)
	f.mu.Lock()
	defer f.mu.Unlock()
	id := p.id
	if varies && id.runs == 0 {
		f.known.Add(id, answer{varies: true})
		id.runs = f.runs(p)
	}
	f.known.Add(id, answer{software: s, until: until})
	f.rememberImage(p, s)
}

// userTick is the unit of times in /proc/<pid>/stat.
const userTick = 10 * time.Millisecond

// ticks is a time of the kernel's record as /proc shows it, which cuts and does not round.
func (f *Finder) ticks(t time.Duration) uint64 { return uint64((t + f.offset) / userTick) }

// bootOffset is what our time namespace adds to the times since boot that /proc shows.
func bootOffset(proc string) time.Duration {
	text, err := os.ReadFile(proc + "/self/timens_offsets")
	if err != nil {
		return 0 // a kernel without time namespaces
	}
	for line := range strings.Lines(string(text)) {
		var seconds, nanoseconds int64
		if n, _ := fmt.Sscanf(line, "boottime %d %d", &seconds, &nanoseconds); n == 2 {
			return time.Duration(seconds)*time.Second + time.Duration(nanoseconds)
		}
	}
	return 0
}
