package e2e

import (
	"sync"

	"golang.org/x/sys/unix"
)

// bpf is where hooks are pinned.
const bpf = "/sys/fs/bpf"

// mountBPF mounts the file system for that, where systemd has not. A bridge does not: a mount of its own
// would be gone with it.
var mountBPF = sync.OnceValue(func() error {
	var s unix.Statfs_t
	if err := unix.Statfs(bpf, &s); err != nil || s.Type == unix.BPF_FS_MAGIC {
		return err
	}
	if err := unix.Mount("bpf", bpf, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		return err
	}
	unmountBPF = func() error { return unix.Unmount(bpf, unix.MNT_DETACH) }
	return nil
})

// unmountBPF ends what mountBPF did.
var unmountBPF = func() error { return nil }
