package redirect

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Exempt marks a socket as the bridge's own before it connects, so that the hook leaves it
// alone. It has the form of net.Dialer.Control, and needs CAP_NET_ADMIN.
func Exempt(mark uint32) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
				return fmt.Errorf("mark own socket: %w", err)
			}
			return nil
		})
	}
}

// WatchHopLimit notes the hop limit with which the other end of c sends its answers. The
// returned function reads it, 0 when no answer has come, and ends the watch.
func (r *Redirect) WatchHopLimit(c syscall.RawConn) (hopLimit func() (int, error), err error) {
	var cookie uint64
	err = control(c, func(fd int) (err error) {
		if cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
			return fmt.Errorf("read socket cookie: %w", err)
		}
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, r.objects.HopLimit.FD()); err != nil {
			return fmt.Errorf("watch hop limit: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return func() (int, error) {
		var ttl uint32
		err := r.objects.HopLimits.LookupAndDelete(&cookie, &ttl)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, nil
		}
		return int(ttl), err
	}, nil
}

func control(c syscall.RawConn, f func(fd int) error) error {
	var inner error
	if err := c.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
