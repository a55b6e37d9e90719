package redirect

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// OwnNetNS returns the inode number of the calling thread's network namespace.
func OwnNetNS() (uint32, error) {
	var s unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &s); err != nil {
		return 0, fmt.Errorf("read own network namespace: %w", err)
	}
	return uint32(s.Ino), nil
}
