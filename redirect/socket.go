package redirect

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Exempt marks a socket as the bridge's own before it connects, so that the hook leaves it
// alone. It needs CAP_NET_ADMIN.
func Exempt(fd int, mark uint32) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		return fmt.Errorf("mark own socket: %w", err)
	}
	return nil
}

// WatchHopLimit notes the hop limit with which the other end of a socket sends its answers. The
// returned function reads it, 0 when no answer has come, and ends the watch.
func (r *Redirect) WatchHopLimit(fd int) (hopLimit func() (int, error), err error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return nil, fmt.Errorf("read socket cookie: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, r.objects.HopLimit.FD()); err != nil {
		return nil, fmt.Errorf("watch hop limit: %w", err)
	}
	return func() (int, error) {
		var ttl uint32
		// In two steps: a hash map knows lookup and delete in one since Linux 5.14 only.
		err := r.objects.HopLimits.Lookup(&cookie, &ttl)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		return int(ttl), r.objects.HopLimits.Delete(&cookie)
	}, nil
}
