package owner

import (
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A table of sockets in /proc takes a millisecond or more to read, whatever it holds: the kernel goes
// through the sockets of all namespaces. To ask the socket itself takes microseconds. That is done by a
// descriptor of our own for it, which is closed at once.

const (
	// maxBorrowed bounds how many sockets of a namespace's processes are asked before its table is read.
	maxBorrowed = 64
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
	if s.dear.Load() {
		return socket{}, false
	}
	pidfd, err := unix.PidfdOpen(h.pid, 0)
	if err != nil {
		s.refused(err)
		return socket{}, false
	}
	defer func() { _ = unix.Close(pidfd) }()
	fd, err := unix.PidfdGetfd(pidfd, h.fd, 0)
	if err != nil {
		s.refused(err)
		return socket{}, false
	}
	defer func() { _ = unix.Close(fd) }()
	return ask(fd, client, server)
}

// refused remembers that sockets are not to be borrowed here, so that nobody is asked again.
func (s *search) refused(err error) {
	if err == unix.ENOSYS || isDenied(err) { //nolint:errorlint // as system calls return it
		s.dear.Store(true)
	}
}

// ask tells of a socket what its table would, if it is connected between two addresses.
func ask(fd int, client, server netip.AddrPort) (socket, bool) {
	remote, err := unix.Getpeername(fd)
	if err != nil {
		return socket{}, false
	}
	to, mapped := addressOf(remote)
	if to != server {
		return socket{}, false
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return socket{}, false
	}
	if from, _ := addressOf(local); from != client {
		return socket{}, false
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil || protocol != unix.IPPROTO_TCP {
		return socket{}, false
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return socket{}, false
	}
	nscookie, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE) // from Linux 5.14
	return socket{inode: uint32(st.Ino), uid: st.Uid, mapped: mapped, nscookie: nscookie}, true
}

// addressOf returns the address without its zone, and whether it is an IPv4 address written as an IPv6 one.
func addressOf(sa unix.Sockaddr) (netip.AddrPort, bool) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), false
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(sa.Addr)
		return netip.AddrPortFrom(addr.Unmap(), uint16(sa.Port)), addr.Is4In6()
	}
	return netip.AddrPort{}, false
}
