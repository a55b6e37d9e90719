package owner

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
)

const (
	tries        = 3
	maxHints     = 4096 // users remembered
	hintsPerUser = 8
	// newest is how many of the latest process numbers are tried before all processes are listed: a
	// caller that lives for one call has one of them. It spares milliseconds on a host with thousands.
	newest = 128
	// maxDescriptors bounds what is looked at of a relative of the process.
	maxDescriptors = 64
	// settle is how long a second process has to let go of the socket. Between fork and exec a child has
	// all of its parent's sockets, those too that it does not get.
	settle  = 2 * time.Millisecond
	settles = 25 // how often that is waited for while it has not run exec
	// youth is how long after its start a process can have a new connection from its parent.
	youth = 10 * time.Second
)

// user is who makes sockets in one network namespace.
type user struct{ uid, netns uint32 }

// holder is a process that has a socket open, and by which descriptor.
type holder struct{ pid, fd int }

// identify finds the process that has the socket open, and fills in what is known of it.
func (s *search) identify(c *redirect.Connection, sock socket) error {
	who := user{sock.uid, sock.netns}
	link := sock.link()
	for range tries {
		found, err := s.holder(who, link)
		if err != nil {
			return err
		}
		if p, ok := s.unchanged(found, sock, true); ok {
			s.remember(user{anyone, sock.netns}, found)
			p.fill(c)
			return nil
		}
		h, p, shared, err := s.eldest(found, link)
		if err == nil {
			err = s.complete(&p)
		}
		// While it has the socket it is the process that was read, and no other by its number.
		if err != nil || !s.holds(h, link) {
			continue // it had the socket for a moment, on its way to exec
		}
		s.remember(who, h)
		p.fill(c)
		// A socket that another user made is from another process.
		c.Ambiguous = c.Ambiguous || shared || !p.isUser(sock.uid)
		s.meet(h, p, sock, c.Ambiguous)
		return nil
	}
	return ErrNoProcess
}

// eldest goes from a process that has the socket to the parent that it has it from, and tells whether
// more than one has it. One that has it for a moment only, on its way to exec, is waited for.
func (s *search) eldest(found holder, link string) (h holder, p process, shared bool, err error) {
	h = found
	last := 0
	for range settles {
		if h, p, err = s.ancestor(h, link); err != nil {
			return h, p, false, err
		}
		heir := s.heir(h, found, link)
		if heir == 0 {
			return h, p, false, nil
		}
		if shared = heir == last; shared && s.keeps(heir, p, link) {
			break
		}
		last = heir
		s.pause()
	}
	return h, p, shared, nil
}

// heir is another process that has the socket too, 0 without any: a child, or the one found first.
func (s *search) heir(h, found holder, link string) int {
	if child := s.child(h.pid, link); child != 0 {
		return child
	}
	if found.pid != h.pid && s.holds(found, link) {
		return found.pid
	}
	return 0
}

func (s *search) pause() {
	select {
	case <-time.After(settle):
	case <-s.ctx.Done():
	}
}

// holder finds a process that has the socket open.
func (s *search) holder(who user, link string) (holder, error) {
	if h, ok := s.knownHolder(who, link); ok {
		return h, nil
	}
	known, _ := s.hints.Get(who)
	for _, h := range known {
		if fd, ok := s.among(h.pid, link); ok {
			return holder{h.pid, fd}, nil
		}
	}
	if who.netns != s.netns {
		if h, ok := s.first(s.others.pids(who.netns), link, every, nil); ok {
			return h, nil
		}
	}
	if h, ok := s.first(s.newest(), link, every, nil); ok {
		return h, nil
	}
	return s.scan(who, link)
}

// scan goes through all processes. One scan at a time: on a host with thousands it takes a CPU for tens of
// milliseconds.
func (s *search) scan(who user, link string) (holder, error) {
	select {
	case s.scanning <- struct{}{}:
		defer func() { <-s.scanning }()
	case <-s.ctx.Done():
		return holder{}, ErrNoProcess
	}
	all, err := s.pids()
	if err != nil {
		return holder{}, err
	}
	// A scan that ran out of time goes on where it was with the next call of that user.
	if stop, ok := s.stops.Get(who); ok {
		at := max(slices.IndexFunc(all, func(pid int) bool { return pid <= stop }), 0)
		all = slices.Concat(all[at:], all[:at])
	}
	for _, pass := range []struct {
		which descriptors
		owned bool
	}{{opened, true}, {opened, false}, {inherited, true}, {inherited, false}} {
		wanted := func(pid int) bool { return s.isOf(pid, who.uid) == pass.owned }
		if h, ok := s.first(all, link, pass.which, wanted); ok {
			return h, nil
		}
		if s.ctx.Err() != nil {
			if pass.which == opened && pass.owned {
				s.stops.Add(who, s.stop)
			}
			break
		}
	}
	return holder{}, ErrNoProcess
}

// first goes through processes, for as long as there is time.
func (s *search) first(pids []int, link string, which descriptors, wanted func(pid int) bool) (holder, bool) {
	for _, pid := range pids {
		if s.ctx.Err() != nil {
			s.stop = pid
			break
		}
		if wanted != nil && !wanted(pid) {
			continue
		}
		if fd, ok := s.descriptor(pid, link, which, 0); ok {
			return holder{s.leader(pid), fd}, true
		}
	}
	return holder{}, false
}

// ancestor goes up from a process for as long as the parent has the socket too. A process that is older
// than its call got no socket from its parent: that one is not asked for its descriptors.
func (s *search) ancestor(h holder, link string) (holder, process, error) {
	p, err := s.stat(h.pid)
	for err == nil && p.ppid > 1 && s.age(p) < youth { // the first process opens no connections for others
		parents, ok := s.parents(h, p, link)
		if !ok {
			break
		}
		h = parents
		p, err = s.stat(h.pid)
	}
	return h, p, err
}

// lineage is a process and its parent.
type lineage struct {
	pid     int
	ppid    uint32
	started time.Duration
}

// parents finds the socket among the parent's descriptors. It goes through them all for a process's first
// call. A later one of a process that had its own socket then is by a socket of its own too, or by one
// that was there at the fork: under the same number.
func (s *search) parents(h holder, p process, link string) (holder, bool) {
	key := lineage{h.pid, p.ppid, p.started}
	if s.apart.Contains(key) {
		same := holder{int(p.ppid), h.fd}
		return same, s.holds(same, link)
	}
	fd, ok := s.descriptor(int(p.ppid), link, every, maxDescriptors)
	if !ok {
		s.apart.Add(key, struct{}{})
	}
	return holder{int(p.ppid), fd}, ok
}

// age is how long ago a process started.
func (f *Finder) age(p process) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	return time.Duration(now.Nano()) - f.clock - p.started
}

// child returns a child of the process that has the socket too, 0 without any. It asks the first thread
// alone: programs with more, whose runtimes let no child inherit what it is not given, have dozens.
func (s *search) child(pid int, link string) int {
	leader := strconv.Itoa(pid)
	var buf [4096]byte
	text, err := s.read(leader+"/task/"+leader+"/children", buf[:])
	if err != nil {
		return 0 // gone, or a kernel without CONFIG_PROC_CHILDREN
	}
	for field := range strings.FieldsSeq(string(text)) {
		if child, err := strconv.Atoi(field); err == nil {
			if _, ok := s.descriptor(child, link, every, maxDescriptors); ok {
				return child
			}
		}
	}
	return 0
}

// keeps tells whether a process has the socket in another program than the one it was forked from. In
// the midst of exec, before sockets are closed, it is none.
func (s *search) keeps(pid int, parent process, link string) bool {
	p, err := s.stat(pid)
	if err != nil || p.execID == 0 || p.execID == parent.execID {
		return false
	}
	_, has := s.descriptor(pid, link, every, maxDescriptors)
	return has
}

// newest are the latest numbers of processes and threads, the youngest first. Some are of nobody.
func (f *Finder) newest() []int {
	var buf [128]byte
	text, err := f.read("loadavg", buf[:])
	if err != nil {
		return nil
	}
	fields := bytes.Fields(text)
	last, err := strconv.Atoi(string(fields[len(fields)-1]))
	if err != nil {
		return nil
	}
	var pids []int
	for pid := last; pid > max(0, last-newest); pid-- {
		pids = append(pids, pid)
	}
	return pids
}

// isOf tells whether a process is a user's, as far as its directory tells.
func (f *Finder) isOf(pid int, uid uint32) bool {
	var st unix.Stat_t
	return unix.Fstatat(int(f.proc.Fd()), strconv.Itoa(pid), &st, 0) == nil && st.Uid == uid
}

// holds tells whether a process has the socket open as it had its last one.
func (s *search) holds(h holder, link string) bool {
	return s.isLink(strconv.Itoa(h.pid)+"/fd/"+strconv.Itoa(h.fd), link)
}

func (s *search) isLink(path, link string) bool {
	target, err := s.target(path)
	if err != nil {
		s.note(err)
	}
	return err == nil && target == link
}

// descriptors are some of a process's. Most processes of a host have little more than the first three, and
// few a connection among those: to leave them for later halves a scan.
type descriptors int

const (
	every     descriptors = iota
	opened                // from the fourth
	inherited             // the first three
)

// descriptor finds the socket among the descriptors of a process, of which it looks at no more than
// limit; 0 is no limit.
func (s *search) descriptor(pid int, link string, which descriptors, limit int) (int, bool) {
	path := strconv.Itoa(pid) + "/fd"
	names, err := s.list(path, limit)
	if err != nil {
		s.note(err)
		return 0, false
	}
	for _, name := range names {
		first := name == "0" || name == "1" || name == "2"
		if which == opened && first || which == inherited && !first {
			continue
		}
		if s.isLink(path+"/"+name, link) {
			fd, err := strconv.Atoi(name)
			return fd, err == nil
		}
	}
	return 0, false
}

// cgroup2Mount is where the cgroup2 hierarchy is mounted, "" where it is not.
func cgroup2Mount() string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		// See proc_pid_mountinfo(5): the mount point is the fifth field, the type follows " - ".
		fields := strings.Fields(line)
		if _, after, ok := strings.Cut(line, " - "); ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 && fields[3] == "/" {
			return fields[4]
		}
	}
	return ""
}
