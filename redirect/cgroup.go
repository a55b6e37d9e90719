package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// ErrNotCgroup2 is returned for a directory that is not of a cgroup2 hierarchy.
var ErrNotCgroup2 = errors.New("not a cgroup2 directory")

// Cgroup is a cgroup2 root to attach to.
type Cgroup struct {
	Path    string
	private *os.File // a mount of our own, nil if there was one
}

// FindCgroup finds the root of the cgroup2 hierarchy: where it is mounted (cgroup v2 and hybrid
// hosts), or by a mount of its own (hosts with cgroup v1 alone; needs CAP_SYS_ADMIN). That mount is
// attached nowhere: it is gone with the process.
func FindCgroup() (Cgroup, error) {
	path, err := mountedCgroup2()
	if err != nil || path != "" {
		return Cgroup{Path: path}, err
	}
	private, err := mountCgroup2()
	if err != nil {
		return Cgroup{}, fmt.Errorf("no cgroup2 is mounted, and mounting one needs CAP_SYS_ADMIN (or mount it yourself and set redirect.cgroup): %w", err)
	}
	return Cgroup{Path: fmt.Sprintf("/proc/self/fd/%d", private.Fd()), private: private}, nil
}

// Close gives up the mount that FindCgroup made. It is idempotent.
func (c *Cgroup) Close() error {
	if c.private == nil {
		return nil
	}
	err := c.private.Close()
	c.private = nil
	return err
}

// mountCgroup2 opens the root of a mount that is not part of any tree (fsmount, Linux 5.2).
func mountCgroup2() (*os.File, error) {
	files, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open cgroup2: %w", err)
	}
	defer unix.Close(files)
	if err := unix.FsconfigCreate(files); err != nil {
		return nil, fmt.Errorf("create cgroup2: %w", err)
	}
	const attributes = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	root, err := unix.Fsmount(files, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, fmt.Errorf("mount cgroup2: %w", err)
	}
	return os.NewFile(uintptr(root), "cgroup2"), nil
}

// mountedCgroup2 returns the mount point of the cgroup2 root, or "" where there is none.
func mountedCgroup2() (string, error) {
	mounts, err := procfs.GetMounts()
	if err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	partial := ""
	for _, m := range mounts {
		if m.FSType != "cgroup2" || !isCgroup2(m.MountPoint) { // another mount may hide it
			continue
		}
		// A container with a cgroup namespace of its own sees its cgroup as the root, and would
		// redirect nobody but itself. Only the true root is without a type.
		if _, err := os.Stat(filepath.Join(m.MountPoint, "cgroup.type")); errors.Is(err, fs.ErrNotExist) {
			return filepath.Clean(m.MountPoint), nil
		}
		partial = m.MountPoint
	}
	if partial != "" {
		return "", fmt.Errorf("cgroup2 at %s is not the host's root: mount the host's /sys/fs/cgroup into the container, or set redirect.cgroup", partial)
	}
	return "", nil
}

func isCgroup2(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC
}

// OpenCgroup opens a directory to attach programs to. The error for one that is not of a cgroup2
// hierarchy is [ErrNotCgroup2].
func OpenCgroup(path string) (*os.File, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("redirect.cgroup: %w", err)
	}
	if err := checkCgroup2(dir); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

func checkCgroup2(dir *os.File) error {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return fmt.Errorf("inspect cgroup %s: %w", dir.Name(), err)
	}
	if s.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("redirect.cgroup: %s: %w (cgroup v1, or no cgroup at all; findmnt -t cgroup2 tells where one is)", dir.Name(), ErrNotCgroup2)
	}
	return nil
}
