package owner

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// Who called twice calls again. His files in /proc are left open: they are his, whoever has his number once he
// is gone, and to read an open one takes a third of the time.

const (
	// maxKept is how many processes are kept, at six descriptors each.
	maxKept = 8
	// maxLearned bounds how many more sockets of a caller are remembered once the one in question is found:
	// one with many calls at once has them under as many numbers.
	maxLearned = 64
	// sparing is how long nobody is kept after descriptors were short.
	sparing = 10 * time.Second
	// doubt is how long nobody is likely to call from an address after somebody called who may be more than one.
	doubt = 10 * time.Second
	// maxAge is how long what was read of a process is told of its further calls.
	maxAge = time.Second
)

// kept is a process that was found more than once, and had its sockets for itself.
type kept struct {
	mu    sync.Mutex // one search reads at a time
	gone  bool       // the files are closed
	pidfd int        // -1 before Linux 5.3
	// Of /proc/<pid>; -1 is none. The memory is that of the program which ran when it was opened.
	dir, stat, cgroup, children, memory int

	process  process
	uid, gid uint32 // that the directory is of
	group    string // what cgroup said
	read     time.Time
	fd       int    // by which it had its last socket
	link     string // of that
}

func newKept() *lru.Cache[int, *kept] {
	c, _ := lru.NewWithEvict(maxKept, func(_ int, k *kept) { k.close() })
	return c
}

// Spare gives up what is kept open of callers, and keeps nobody for a while: descriptors are short, and calls need them.
func (f *Finder) Spare() {
	now := time.Now()
	f.spared.Store(&now)
	f.kept.Purge()
}

func (f *Finder) isSparing() bool {
	at := f.spared.Load()
	return at != nil && time.Since(*at) < sparing
}

// close closes the files, and waits for nobody: who is in the midst of it closes them behind him.
func (k *kept) close() {
	if !k.mu.TryLock() {
		go func() {
			k.mu.Lock()
			k.closeFiles()
		}()
		return
	}
	k.closeFiles()
}

// closeFiles is for who has the lock, which it gives back.
func (k *kept) closeFiles() {
	defer k.mu.Unlock()
	k.gone = true
	for _, fd := range []*int{&k.pidfd, &k.dir, &k.stat, &k.cgroup, &k.children, &k.memory} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
		}
		*fd = -1
	}
}

// again finds a caller who is as he was the last time, in a few system calls. It tells no more than whether he is.
func (f *Finder) again(client, server netip.AddrPort) (redirect.Connection, bool) {
	client, server = plain(client), plain(server)
	s, ok := promptly(f, client.Addr(), lookPatience, func() sight { return f.glance(client, server) })
	return s.c, ok && s.ok
}

// Begin begins to look for who is likely to be who called before, and returns false where there is nobody likely. The caller
// is likely to be in our own network namespace, or not to be; found waits for what Find says, and is called once. Whom Find
// has to look for longer is looked for at once all the same: he may be gone by then.
func (f *Finder) Begin(client, server netip.AddrPort) (own bool, found func() (redirect.Connection, error), ok bool) {
	who := plain(client).Addr()
	own, ok = f.others.likely(who)
	if !ok {
		return false, nil, false
	}
	longer := make(chan func() (redirect.Connection, error), 1)
	a, ok := startLook(f, who, func() sight {
		s := f.glance(plain(client), plain(server))
		if !s.ok {
			longer <- f.longer(context.Background(), client, server)
		}
		return s
	})
	if !ok {
		return false, nil, false
	}
	return own, func() (c redirect.Connection, err error) {
		s, ok := a.await(lookPatience)
		switch {
		case !ok: // it hangs
			c, err = f.longer(context.Background(), client, server)()
		case !s.ok:
			c, err = (<-longer)()
		default:
			c = s.c
		}
		if c.Ambiguous {
			f.doubts.Add(who, time.Now())
		}
		return c, err
	}, true
}

// sight is what a glance sees.
type sight struct {
	c  redirect.Connection
	ok bool
}

func (f *Finder) glance(client, server netip.AddrPort) (seen sight) {
	s := &search{Finder: f, prompt: true}
	sock, h, ok := s.likely(client, server)
	if !ok {
		return seen
	}
	p, ok := s.unchanged(h, sock, false)
	if ok {
		seen = sight{s.connection(sock, server), true}
		p.fill(&seen.c)
	}
	return seen
}

// likely finds the socket, and who has it if that is who had the last one.
func (s *search) likely(client, server netip.AddrPort) (socket, holder, bool) {
	if ns := s.others.only(client.Addr()); ns != nil {
		return ns.borrowKnown(s, client, server)
	}
	if found, h, ok := s.borrowOwn(client, server); ok {
		return found, h, true
	}
	sock, err := s.own.findNow(client, server)
	if err != nil {
		return sock, holder{}, false
	}
	sock.netns = s.netns
	if h, ok := s.seen.Get(sock.link()); ok {
		return sock, h, true
	}
	known, _ := s.hints.Get(user{sock.uid, sock.netns})
	if len(known) == 0 {
		return sock, holder{}, false
	}
	return sock, known[0], true
}

// unchanged tells whether a process is kept, has a socket for itself, and is as it was but for its name. It is
// patient where it may read what takes time.
func (s *search) unchanged(h holder, sock socket, patient bool) (process, bool) {
	k, ok := s.kept.Get(h.pid)
	if !ok || !k.mu.TryLock() {
		return process{}, false
	}
	defer k.mu.Unlock()
	p, link := k.process, sock.link()
	if k.gone || !p.isUser(sock.uid) || !k.isAsItWas(&p, s.clock) {
		return p, false
	}
	// What was not there under this number at the last call was not there at the fork.
	if (h.fd != k.fd || link == k.link) && s.isHeir(h, p, link) {
		return p, false
	}
	if k.hasChildren() && (!patient || s.child(h.pid, link) != 0) {
		return p, false
	}
	if sock.lender == k {
		k.fd, k.link = h.fd, link
		return p, true
	}
	// While it has the socket it is the process that was read.
	return p, k.holds(h.fd, link)
}

// isAsItWas tells whether all of a process but its name is what it was, and reads that anew. What was read a moment ago
// stands for as long as it is the same program's.
func (k *kept) isAsItWas(p *process, clock time.Duration) bool {
	now := time.Now()
	if !k.runs() {
		return false
	}
	if now.Sub(k.read) < maxAge {
		return true
	}
	if !k.same(p, clock) || !k.sameCgroup() {
		return false
	}
	k.process, k.read = *p, now
	return true
}

// runs tells whether the program still runs that ran when its memory was opened: a read of less than a record is refused
// for as long as anybody uses that, and finds the end of the file after exec and exit (pagemap_read in fs/proc/task_mmu.c).
func (k *kept) runs() bool {
	var none [1]byte
	_, err := unix.Pread(k.memory, none[:], 0)
	return err == unix.EINVAL
}

func (k *kept) holds(fd int, link string) bool {
	var buf [64]byte
	n, err := unix.Readlinkat(k.dir, "fd/"+strconv.Itoa(fd), buf[:])
	if err != nil || string(buf[:n]) != link {
		return false
	}
	k.fd, k.link = fd, link
	return true
}

// same reads the process's name anew, and tells whether all else is what it was.
func (k *kept) same(p *process, clock time.Duration) bool {
	var buf [1024]byte
	n, err := unix.Pread(k.stat, buf[:], 0)
	if err != nil || p.parseStat(buf[:n], clock) != nil {
		return false
	}
	was := k.process
	was.comm = p.comm
	uid, gid, err := k.owner()
	return err == nil && *p == was && uid == k.uid && gid == k.gid
}

// owner is whom the directory is of.
func (k *kept) owner() (uid, gid uint32, err error) {
	var st unix.Stat_t
	err = unix.Fstat(k.dir, &st)
	return st.Uid, st.Gid, err
}

// sameCgroup tells whether the process is in the cgroup that it was in.
func (k *kept) sameCgroup() bool {
	group, err := k.readCgroup()
	return err == nil && group == k.group
}

func (k *kept) readCgroup() (string, error) {
	var buf [4096]byte
	n, err := unix.Pread(k.cgroup, buf[:], 0)
	return string(buf[:max(n, 0)]), err
}

// hasChildren tells whether there are any.
func (k *kept) hasChildren() bool {
	if k.children < 0 {
		return false // a kernel without CONFIG_PROC_CHILDREN
	}
	var buf [16]byte
	n, err := unix.Pread(k.children, buf[:], 0)
	return n != 0 || err != nil
}

// isHeir tells whether a process can have the socket from its parent.
func (s *search) isHeir(h holder, p process, link string) bool {
	if p.ppid <= 1 || s.age(p) >= youth {
		return false
	}
	return !s.apart.Contains(lineage{h.pid, p.ppid, p.started}) || s.holds(holder{int(p.ppid), h.fd}, link)
}

// meet notes who was found, and keeps who was found before. Who shares his sockets is looked at in full each
// time; so are we ourselves, whose self-check has to see its socket's cookie.
func (s *search) meet(h holder, p process, sock socket, ambiguous bool) {
	if ambiguous || p.execID == 0 || h.pid == s.self {
		s.kept.Remove(h.pid)
		return
	}
	s.remember(user{anyone, sock.netns}, h)
	started, ok := s.met.Get(h.pid)
	if !ok || started != p.started {
		s.met.Add(h.pid, p.started)
		return
	}
	if s.isSparing() {
		return
	}
	promptly(s.Finder, s.client, lookPatience, func() (done bool) {
		if done = s.looks.take(h.pid); done {
			defer s.looks.giveBack(h.pid)
			s.keep(h, p, sock)
		}
		return done
	})
}

// keep opens a process, or takes what was found of it for what the kept one is.
func (s *search) keep(h holder, p process, sock socket) {
	k, ok := s.kept.Get(h.pid)
	if !ok {
		var err error
		if k, err = s.open(h.pid); err != nil {
			return
		}
		s.kept.Add(h.pid, k)
	}
	if !s.learn(k, h, p, sock) {
		s.kept.Remove(h.pid)
	}
}

// open opens what is kept of a process.
func (s *search) open(pid int) (_ *kept, err error) {
	number := strconv.Itoa(pid)
	k := &kept{pidfd: -1, dir: -1, stat: -1, cgroup: -1, children: -1, memory: -1}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	if k.dir, err = unix.Openat(int(s.proc.Fd()), number, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	for name, fd := range map[string]*int{"stat": &k.stat, "cgroup": &k.cgroup, "pagemap": &k.memory} {
		if *fd, err = unix.Openat(k.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return nil, err
		}
	}
	k.children, err = unix.Openat(k.dir, "task/"+number+"/children", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) { // CONFIG_PROC_CHILDREN
		return nil, err
	}
	if k.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		s.refused(err)
	}
	if s.dear.Load() {
		err = nil // it is not needed
	}
	return k, err
}

// learn takes a process that was just found for what the kept one is, unless it is another.
func (s *search) learn(k *kept, h holder, p process, sock socket) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return false
	}
	k.read = time.Now()
	group, err := k.readCgroup()
	if !k.runs() || err != nil || s.cgroupID([]byte(group)) != p.cgroupID {
		return false
	}
	k.process, k.group = p, group
	k.uid, k.gid, err = k.owner()
	return err == nil && k.same(&p, s.clock) && k.holds(h.fd, sock.link())
}

// link is what a descriptor of the socket is a link to.
func (s socket) link() string { return "socket:[" + strconv.FormatUint(uint64(s.inode), 10) + "]" }
