package caller

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

const (
	// defaultSize remembers that many callers, of 1 to 1.5 KiB each as a rule and 6 KiB at worst, besides
	// the text of their ancestors, which they share.
	defaultSize = 16384
	// patience is how long a call waits for /proc, which answers in microseconds unless the process
	// holds its memory map locked. The call matters more than the name.
	patience = 100 * time.Millisecond
	// refreshAfter bounds how long a caller is shown with an ancestor that has since run exec or
	// ended, with a title that it has since changed, or with a user that has since been renamed.
	refreshAfter = time.Minute
	// maxReads bounds the threads that can hang in /proc at once.
	maxReads = 64
)

// Options of a [Reader]. The zero value is ready to use.
type Options struct {
	// Proc is where the procfs of the initial pid namespace is mounted; "" means /proc.
	Proc string
	// Size is how many callers are remembered; 0 means 16384.
	Size int
	// Env names the variables that are read of a caller's environment.
	Env []string
}

// Reader names callers. It reads a process once for each program that it runs, and remembers the
// callers seen last.
type Reader struct {
	proc          string
	env           []string
	clock         clock
	made          time.Time
	known         *lru.Cache[image, reading]
	ancestries    *lru.Cache[int, []Process]
	cgroups       *lru.Cache[string, *Cgroup]
	flights       singleflight.Group
	reads         chan struct{}
	users, groups names
}

// image tells apart what a process can be read as. A pid alone is reused, and pid and start time
// survive exec. The cgroup decides the container, which a runtime's child enters after it started,
// and the parent is another once the first one ended.
type image struct {
	pid, ppid        uint32
	started          time.Duration
	execID, cgroupID uint64
}

// reading is a caller with the time it was read, since the Reader was made.
type reading struct {
	caller *Caller
	at     time.Duration
}

func (r *Reader) isOld(known reading) bool { return time.Since(r.made)-known.at > refreshAfter }

// NewReader returns a Reader of the procfs that opts names. To read processes of other users it
// needs CAP_SYS_PTRACE. It keeps no file open and needs no close.
func NewReader(opts Options) (*Reader, error) {
	proc := cmp.Or(opts.Proc, "/proc")
	if info, err := os.Stat(proc); err != nil {
		return nil, fmt.Errorf("open procfs: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("open procfs: %s is not a directory", proc)
	}
	known, err := lru.New[image, reading](cmp.Or(opts.Size, defaultSize))
	if err != nil {
		return nil, fmt.Errorf("remember %d callers: %w", opts.Size, err)
	}
	ancestries, err := lru.New[int, []Process](sharedAncestries)
	if err != nil {
		return nil, fmt.Errorf("remember ancestors: %w", err)
	}
	cgroups, err := lru.New[string, *Cgroup](sharedCgroups)
	if err != nil {
		return nil, fmt.Errorf("remember cgroups: %w", err)
	}
	return &Reader{
		cgroups:    cgroups,
		proc:       proc,
		env:        slices.Clone(opts.Env),
		clock:      newClock(proc),
		made:       time.Now(),
		known:      known,
		ancestries: ancestries,
		reads:      make(chan struct{}, maxReads),
		users:      names{path: hostFile(proc, "/etc/passwd")},
		groups:     names{path: hostFile(proc, "/etc/group")},
	}, nil
}

// hostFile is the host's file also when the bridge runs in a container: that of pid 1. Where its
// root may not be entered it is our own.
func hostFile(proc, path string) string {
	if hosts := proc + "/1/root" + path; readable(hosts) {
		return hosts
	}
	return path
}

func readable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// Caller names the process of o. It never fails and waits at most 100 ms: what cannot be read
// leaves a caller that is not Complete. It is safe for concurrent use.
//
// Only complete callers are remembered, and none that is Starting. A process that is gone costs one failed open and makes no
// further calls, so remembering the failure would only hide a success that comes later.
//
// The record is made in connect() and /proc is read a moment later. A process that runs exec in
// between (from another thread, or with the socket inherited) is shown as what it is by then;
// nothing in /proc tells. Its next connect has another exec id and is read anew.
func (r *Reader) Caller(o Origin) *Caller {
	key := image{o.PID, o.PPID, o.Started, o.ExecID, o.CgroupID}
	if known, ok := r.known.Get(key); ok {
		if r.isOld(known) {
			r.fly(key, o)
		}
		return r.seenAs(known.caller, o)
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case read := <-r.fly(key, o):
		return r.seenAs(read.Val.(*Caller), o)
	case <-late.C:
		return r.recorded(o)
	}
}

// fly reads the caller of o in the background and remembers it. All who ask for the same image
// meanwhile share the one read.
func (r *Reader) fly(key image, o Origin) <-chan singleflight.Result {
	return r.flights.DoChan(key.String(), func() (any, error) {
		select {
		case r.reads <- struct{}{}:
		case <-time.After(patience):
			return r.recorded(o), nil // /proc hangs: not one more goroutine for it
		}
		defer func() { <-r.reads }()
		known, ok := r.known.Peek(key)
		if ok && !r.isOld(known) {
			return known.caller, nil // read between our look and this flight
		}
		c := r.read(o)
		if ok && c.Complete {
			c.Env = known.caller.Env // that of the start, over which it may have written since
		}
		if c.Complete && !c.Starting {
			r.known.Add(key, reading{c, time.Since(r.made)})
		}
		return c, nil
	})
}

func (i image) String() string {
	b := make([]byte, 0, 64)
	for _, n := range [...]uint64{uint64(i.pid), uint64(i.ppid), uint64(i.started), i.execID, i.cgroupID} {
		b = append(strconv.AppendUint(b, n, 36), ' ')
	}
	return string(b)
}

// seenAs is c with the record of this connection: another thread of the process may have another
// name, user or network namespace.
func (r *Reader) seenAs(c *Caller, o Origin) *Caller {
	if c.Origin == o {
		return c
	}
	seen := *c
	seen.sign(o)
	if o.UID != c.UID || o.GID != c.GID {
		r.own(&seen)
	}
	return &seen
}

// recorded is the caller as far as the kernel's record tells it.
func (r *Reader) recorded(o Origin) *Caller {
	return &Caller{Origin: o, Comm: printable(o.Comm, maxComm), Started: r.clock.wall(o.Started)}
}

// sign puts the record o on c. The name of the thread that leads the process is that of the process,
// and the record has it as of now.
func (c *Caller) sign(o Origin) {
	if o.TID == o.PID && o.Comm != "" {
		c.Comm = printable(o.Comm, maxComm)
	}
	c.Origin = o
}

// own names the user and group of c.
func (r *Reader) own(c *Caller) {
	if c.Complete && !c.inContainer() {
		c.User, c.Group = r.users.of(c.UID), r.groups.of(c.GID)
	}
}
