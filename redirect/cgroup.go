package redirect

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Cgroup is a cgroup2 root to attach to.
type Cgroup struct {
	Path    string
	mounted bool
}

// ErrNotCgroup2 is returned for a directory that is not of a cgroup2 hierarchy.
var ErrNotCgroup2 = errors.New("not a cgroup2 directory")

// FindCgroup finds the root of the cgroup2 hierarchy: where it is mounted (cgroup v2 and
// hybrid hosts), or by mounting it at private, a directory that is made when missing
// (hosts with cgroup v1 alone; needs CAP_SYS_ADMIN).
func FindCgroup(private string) (Cgroup, error) {
	path, err := mountedCgroup2()
	if err != nil || path != "" {
		return Cgroup{Path: path}, err
	}
	if err := os.MkdirAll(private, 0o700); err != nil {
		return Cgroup{}, fmt.Errorf("make mount point for cgroup2: %w", err)
	}
	if err := unix.Mount("none", private, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return Cgroup{}, fmt.Errorf("no cgroup2 is mounted; mount one at %s (needs CAP_SYS_ADMIN; or mount it yourself and set redirect.cgroup): %w", private, err)
	}
	return Cgroup{Path: private, mounted: true}, nil
}

// Close unmounts what FindCgroup mounted. It is idempotent.
func (c *Cgroup) Close() error {
	if !c.mounted {
		return nil
	}
	c.mounted = false
	if err := unix.Unmount(c.Path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", c.Path, err)
	}
	return nil
}

// mountedCgroup2 returns the mount point of the cgroup2 root, or "" where there is none.
func mountedCgroup2() (string, error) {
	mounts, err := procfs.GetMounts()
	if err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	partial := ""
	for _, m := range mounts {
		if m.FSType != "cgroup2" {
			continue
		}
		// In a cgroup namespace of its own a container sees its cgroup as the root, and would
		// redirect nobody but itself: its parent shows as "..".
		if m.Root != "/" {
			partial = m.MountPoint
			continue
		}
		return filepath.Clean(m.MountPoint), nil
	}
	if partial != "" {
		return "", fmt.Errorf("cgroup2 at %s is not the host's root: mount the host's /sys/fs/cgroup into the container, or set redirect.cgroup", partial)
	}
	return "", nil
}

func checkCgroup2(dir *os.File) error {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return fmt.Errorf("inspect cgroup %s: %w", dir.Name(), err)
	}
	if s.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s: %w (cgroup v1, or no cgroup at all)", dir.Name(), ErrNotCgroup2)
	}
	return nil
}
