package proxy

import (
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dial begins to connect to a fixed address. The first write waits until the connection is there,
// or tells why it is not.
//
// It is what net.Dialer does, without what a call to a literal address needs none of: name
// resolution, a goroutine that watches a context, and asking the kernel for both ends: a tenth of
// the CPU time of a call (docs/performance.md).
func dial(to netip.AddrPort, deadline time.Time, prepare func(fd int) error) (*os.File, error) {
	family, address := sockaddr(to)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	if err := prepare(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if err := unix.Connect(fd, address); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to %s: %w", to, err)
	}
	conn := os.NewFile(uintptr(fd), to.String())
	if err := conn.SetDeadline(deadline); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// connected waits until a connection that dial began is there, or tells why it is not.
func connected(conn *os.File) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) (done bool) {
		if _, err := unix.Getpeername(int(fd)); err == nil {
			return true
		}
		if errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
			failed = fmt.Errorf("connect to %s: %w", conn.Name(), unix.Errno(errno))
			return true
		}
		return false
	})
	if err != nil {
		return fmt.Errorf("connect to %s: %w", conn.Name(), err)
	}
	return failed
}

func sockaddr(to netip.AddrPort) (family int, _ unix.Sockaddr) {
	if to.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}
