package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrInUse is returned when the hook of a bridge that lives is pinned where one is to be pinned, or
// removed.
var ErrInUse = errors.New("a bridge that runs has its hook there")

// CheckUnused returns [ErrInUse] when a bridge that lives, serving or hung, has pinned its hook in a
// directory, and names its process where that is known. What may not be looked into counts as unused.
func CheckUnused(dir string) error {
	claimed, err := claim(dir, unix.LOCK_EX)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil
		}
		return err
	}
	return claimed.Close()
}

// Silence lets the hook that a dead bridge pinned in a directory refuse calls at once. Until its last
// sign of life is old enough it would send them to a listener, which may be another bridge's by now.
// That of a bridge which lives stays as it is, with [ErrInUse]; what may not be looked into too.
func Silence(dir string) error {
	claimed, err := claim(dir, unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer claimed.Close()
	variables, err := loadHeartbeat(dir)
	if variables == nil {
		return err
	}
	defer variables.Close()
	if err := variables.Put(uint32(0), uint64(0)); err != nil {
		return fmt.Errorf("silence a pinned hook: %w", err)
	}
	return nil
}

// claim locks the directory of pins for as long as the file is open: shared by the bridges that have
// their hook there, exclusively by who wants it for itself. The kernel gives the lock up with the
// process, however that ends, and not when it merely hangs.
func claim(dir string, how int) (*claimed, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("look for a pinned hook: %w", err)
	}
	c := &claimed{f}
	if err := c.lock(how); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return c, nil
}

// claimed is a directory with a lock.
type claimed struct{ *os.File }

func (c *claimed) lock(how int) error {
	err := unix.Flock(int(c.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w%s (stop it first)", c.Name(), ErrInUse, holderOf(c.File))
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", c.Name(), err)
	}
	return nil
}

// Close gives up the lock. To close the file alone is not enough: a process that was just forked has a
// copy until its exec.
func (c *claimed) Close() error {
	return errors.Join(unix.Flock(int(c.Fd()), unix.LOCK_UN), c.File.Close())
}

// holderOf names the process that has a lock on a file, if it can be seen from here.
func holderOf(f *os.File) string {
	var s unix.Stat_t
	if unix.Fstat(int(f.Fd()), &s) != nil {
		return ""
	}
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(s.Dev), unix.Minor(s.Dev), s.Ino)
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK  ADVISORY  READ 4711 00:1c:42 0 EOF
		if f := strings.Fields(line); len(f) > 5 && f[1] == "FLOCK" && f[5] == inode && f[4] > "0" {
			return ": process " + f[4]
		}
	}
	return ""
}
