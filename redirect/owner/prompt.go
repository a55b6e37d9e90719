package owner

import (
	"net/netip"
	"runtime"
	"sync"
	"time"
)

// What a process has open can be made to hang whoever looks at it, for as long as somebody likes: he sends from memory that
// nobody fills in (userfaultfd, FUSE), and the kernel holds the socket's lock meanwhile, for which getsockname waits from Linux
// 5.15, and sock_diag for all sockets before 6.9; or he stays in the midst of exec, for which pidfd_getfd waits. So another
// goroutine looks, and is waited for only so long.

const (
	// maxLooks bounds those under way, and so the threads that hang at once. Where there are so many, callers are looked
	// for without what can hang.
	maxLooks = 64
	// maxLooksFor is of one address of callers: one container's do not take all there are.
	maxLooksFor = maxLooks / 2
	// lookPatience is how long a look may take that takes microseconds.
	lookPatience = 5 * time.Millisecond
)

// looks are those under way.
type looks struct {
	mu  sync.Mutex
	all int
	by  map[netip.Addr]int // of who is looked for
	at  map[int]bool       // processes: one that hangs a look gets no other
}

func newLooks() looks { return looks{by: make(map[netip.Addr]int), at: make(map[int]bool)} }

func (l *looks) begin(who netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxLooks || l.by[who] >= maxLooksFor {
		return false
	}
	l.all++
	l.by[who]++
	return true
}

func (l *looks) end(who netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.by[who]--; l.by[who] == 0 {
		delete(l.by, who)
	}
}

// take returns false for a process that somebody looks at already.
func (l *looks) take(pid int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at[pid] {
		return false
	}
	l.at[pid] = true
	return true
}

func (l *looks) giveBack(pid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.at, pid)
}

// elsewhere does something on a goroutine that has done so before, whose stack has grown, or on a new one.
func (f *Finder) elsewhere(do func()) {
	select {
	case f.idle <- do:
	default:
		f.background.Go(func() { f.work(do) })
	}
}

func (f *Finder) work(do func()) {
	for {
		do()
		select {
		case do = <-f.idle:
		case <-f.quit:
			return
		}
	}
}

// answer is that of a look under way.
type answer[T any] chan T

// startLook begins to look for one with an address. It returns false where that cannot be.
func startLook[T any](f *Finder, who netip.Addr, look func() T) (answer[T], bool) {
	if !f.looks.begin(who) {
		return nil, false
	}
	a := make(answer[T], 1)
	f.elsewhere(func() {
		seen := look()
		f.looks.end(who)
		a <- seen
	})
	return a, true
}

// promptly looks for one with an address, and returns false when that takes longer, or cannot begin.
func promptly[T any](f *Finder, who netip.Addr, patience time.Duration, look func() T) (seen T, ok bool) {
	a, ok := startLook(f, who, look)
	if !ok {
		return seen, false
	}
	return a.await(patience)
}

// await returns false when it takes longer. The look goes on then, with nobody to hear of it.
func (a answer[T]) await(patience time.Duration) (seen T, ok bool) {
	select {
	case seen = <-a:
		return seen, true
	default:
	}
	// Mostly it is there once everybody else had his turn: a timer would take longer than that.
	runtime.Gosched()
	select {
	case seen = <-a:
		return seen, true
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case seen = <-a:
		return seen, true
	case <-timer.C:
		return seen, false
	}
}
