package hook

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// WatchHopLimit notes the hop limit with which the other end of a socket sends its answers. The
// returned function reads it, 0 when no answer has come, and ends the watch.
func (h *Hook) WatchHopLimit(fd int) (hopLimit func() (int, error), err error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return nil, fmt.Errorf("read socket cookie: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, h.objects.HopLimit.FD()); err != nil {
		return nil, fmt.Errorf("watch hop limit: %w", err)
	}
	return func() (int, error) {
		var ttl uint32
		// In two steps: a hash map knows lookup and delete in one since Linux 5.14 only.
		err := h.objects.HopLimits.Lookup(&cookie, &ttl)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		return int(ttl), h.objects.HopLimits.Delete(&cookie)
	}, nil
}
