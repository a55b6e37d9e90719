package owner

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A table of sockets in /proc takes a millisecond or more to read, whatever it holds: the kernel goes
// through the sockets of all namespaces. To ask the socket itself takes microseconds. That is done by a
// descriptor of our own for it, which is closed at once.

const (
	// maxBorrowed bounds how many sockets of a namespace's processes are asked before its table is read.
	maxBorrowed = 64
	// maxRecent is how many sockets of our own namespace's processes are asked before sock_diag is.
	maxRecent = 2
	// anyone stands for all users of a namespace. It is no user's id.
	anyone = ^uint32(0)
)

// borrow looks for a socket among the descriptors of the namespace's processes: at first where the last one
// was. Where it finds none, there may be one all the same.
func (ns *namespace) borrow(s *search, client, server netip.AddrPort) (socket, bool) {
	if found, _, ok := ns.borrowKnown(s, client, server); ok {
		return found, true
	}
	all := user{anyone, ns.id}
	left := maxBorrowed
	for _, pid := range ns.pids {
		path := strconv.Itoa(pid) + "/fd"
		names, err := s.list(path, maxDescriptors)
		if err != nil {
			continue // the table's reader says so
		}
		for _, name := range names {
			if left == 0 || s.ctx.Err() != nil || s.dear.Load() {
				return socket{}, false
			}
			left--
			fd, err := strconv.Atoi(name)
			if err != nil || !s.isSocket(path+"/"+name) {
				continue
			}
			h := holder{pid, fd}
			if found, ok := s.borrow(h, client, server); ok && s.isIn(h, ns) {
				s.remember(all, h)
				return found, true
			}
		}
	}
	return socket{}, false
}

// borrowKnown looks where the last ones were.
func (ns *namespace) borrowKnown(s *search, client, server netip.AddrPort) (socket, holder, bool) {
	known, _ := s.hints.Get(user{anyone, ns.id})
	for _, h := range known {
		found, ok := s.borrow(h, client, server)
		if !ok {
			continue
		}
		if cookie := ns.cookie.Load(); cookie == 0 || cookie != found.nscookie {
			if !s.isIn(h, ns) {
				continue
			}
			ns.cookie.Store(found.nscookie)
		}
		found.netns = ns.id
		return found, h, true
	}
	return socket{}, holder{}, false
}

// borrowOwn looks where the last ones of our own namespace were, if its sockets tell whose they are.
func (s *search) borrowOwn(client, server netip.AddrPort) (socket, holder, bool) {
	if s.cookie == 0 {
		return socket{}, holder{}, false
	}
	known, _ := s.hints.Get(user{anyone, s.netns})
	for _, h := range known[:min(len(known), maxRecent)] {
		if found, ok := s.borrow(h, client, server); ok && found.nscookie == s.cookie {
			found.netns = s.netns
			return found, h, true
		}
	}
	return socket{}, holder{}, false
}

// isIn tells whether a process is in the namespace: its number may be another process's by now.
func (s *search) isIn(h holder, ns *namespace) bool {
	id, err := s.netNSOf(h.pid)
	return err == nil && id == ns.id
}

func (s *search) isSocket(path string) bool {
	var buf [64]byte
	n, err := unix.Readlinkat(int(s.proc.Fd()), path, buf[:])
	return err == nil && strings.HasPrefix(string(buf[:n]), "socket:")
}

// borrow asks the socket that a process has as a descriptor, if it is the one between two addresses. It needs
// Linux 5.6, and of [Capabilities] CAP_SYS_PTRACE; security modules can forbid it besides.
func (s *search) borrow(h holder, client, server netip.AddrPort) (socket, bool) {
	if s.dear.Load() || s.hung {
		return socket{}, false
	}
	look := func() socket { return s.askProcess(h, client, server) }
	if s.prompt {
		found := look()
		return found, found.inode != 0
	}
	found, ok := promptly(s.Finder, client.Addr(), lookPatience, look)
	s.hung = !ok
	return found, found.inode != 0
}

// askProcess is borrow as it waits. It returns the zero socket for another one.
func (f *Finder) askProcess(h holder, client, server netip.AddrPort) (none socket) {
	if !f.looks.take(h.pid) {
		return none
	}
	defer f.looks.giveBack(h.pid)
	if !f.sharesClass(h.pid) {
		return none
	}
	if k, ok := f.kept.Get(h.pid); ok && k.mu.TryLock() {
		defer k.mu.Unlock()
		found := f.ask(k.pidfd, h.fd, client, server)
		found.lender = k
		return found
	}
	pidfd, err := unix.PidfdOpen(h.pid, 0)
	if err != nil {
		f.refused(err)
		return none
	}
	defer func() { _ = unix.Close(pidfd) }()
	return f.ask(pidfd, h.fd, client, server)
}

// sharesClass tells whether a process is in our own cgroups of net_cls and net_prio. The kernel puts a socket that is borrowed into
// those of who borrows it (__receive_sock in net/core/scm.c), which would be a change to others' traffic.
func (f *Finder) sharesClass(pid int) bool {
	if f.class == "" {
		return true
	}
	var buf [4096]byte
	text, err := f.read(strconv.Itoa(pid)+"/cgroup", buf[:])
	return err == nil && classOf(string(text)) == f.class
}

// classOf are the lines of /proc/<pid>/cgroup that class packets, "" where the kernel has none.
func classOf(text string) (class string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, "net_cls") || strings.Contains(line, "net_prio") {
			class += line
		}
	}
	return class
}

// refused remembers that sockets are not to be borrowed here, so that nobody is asked again.
func (f *Finder) refused(err error) {
	if err == unix.ENOSYS || isDenied(err) { //nolint:errorlint // as system calls return it
		f.dear.Store(true)
	}
}

// ask tells of a process's socket what its table would, if it is connected between two addresses; else it returns the zero
// socket.
func (f *Finder) ask(pidfd, number int, client, server netip.AddrPort) (none socket) {
	fd, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		f.refused(err)
		return none
	}
	defer func() { _ = unix.Close(fd) }()
	to, mapped, ok := nameOf(unix.SYS_GETPEERNAME, fd)
	if !ok || to != server {
		return none
	}
	if from, _, ok := nameOf(unix.SYS_GETSOCKNAME, fd); !ok || from != client {
		return none
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil || protocol != unix.IPPROTO_TCP {
		return none
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return none
	}
	nscookie, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE) // from Linux 5.14
	return socket{inode: uint32(st.Ino), uid: st.Uid, mapped: mapped, nscookie: nscookie}
}

// nameOf returns an address of a socket without its zone, and whether it is an IPv4 address written as an IPv6 one. Not by
// [unix.Getsockname] and [unix.Getpeername], which ask for the protocol each time besides.
func nameOf(which uintptr, fd int) (_ netip.AddrPort, mapped, ok bool) {
	var name unix.RawSockaddrInet6 // the larger of the two
	size := uint32(unsafe.Sizeof(name))
	if _, _, errno := unix.Syscall(which, uintptr(fd), uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return netip.AddrPort{}, false, false
	}
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:])
	switch name.Family {
	case unix.AF_INET:
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&name))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), port), false, true
	case unix.AF_INET6:
		addr := netip.AddrFrom16(name.Addr)
		return netip.AddrPortFrom(addr.Unmap(), port), addr.Is4In6(), true
	}
	return netip.AddrPort{}, false, false
}
