package redirect

import (
	"fmt"

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
