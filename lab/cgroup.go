package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// prefix begins the name of every scratch cgroup: imds-bridge-lab-<pid>-<number>.
const prefix = "imds-bridge-lab-"

var number atomic.Int64 // of the labs that this process made

// scratch is the cgroup of one lab: a directory with two others for what runs in the lab.
type scratch struct {
	dir      string
	workload string // the one that hooks attach to
	outside  string // beside it, out of the hooks' sight
	// lock is dir, held under flock(2) while the owner lives. A process id alone would not tell:
	// it may be used again, or be one of another pid namespace.
	lock *os.File
}

// newScratch makes a scratch cgroup below parent, after a sweep of the abandoned ones there.
func newScratch(parent string) (_ *scratch, err error) {
	if parent == "" {
		if parent, err = cgroup2Mount(); err != nil {
			return nil, err
		}
	}
	if err := sweep(parent); err != nil {
		return nil, fmt.Errorf("sweep cgroups of dead labs: %w", err)
	}
	s, err := claim(parent)
	if err != nil {
		return nil, err
	}
	s.workload, s.outside = filepath.Join(s.dir, "workload"), filepath.Join(s.dir, "outside")
	for _, dir := range []string{s.workload, s.outside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("make scratch cgroup: %w", err), s.close())
		}
	}
	return s, nil
}

// claim makes a new directory and locks it.
func claim(parent string) (*scratch, error) {
	for range 100 {
		dir := filepath.Join(parent, fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), number.Add(1)))
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue // of another pid namespace
		}
		if err != nil {
			return nil, fmt.Errorf("make scratch cgroup: %w", err)
		}
		// A sweep may have come between, and taken the directory for an abandoned one.
		if lock := tryLock(dir); lock != nil {
			return &scratch{dir: dir, lock: lock}, nil
		}
	}
	return nil, fmt.Errorf("cannot lock a scratch cgroup below %s", parent)
}

// tryLock locks a directory. It returns nil if another has it, or has removed it meanwhile.
func tryLock(dir string) *os.File {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		locked, err := f.Stat()
		named, err2 := os.Stat(dir)
		if err == nil && err2 == nil && os.SameFile(locked, named) {
			return f
		}
	}
	f.Close()
	return nil
}

// sweep removes the scratch cgroups below parent that nobody holds, with what runs in them.
func sweep(parent string) error {
	dirs, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		if lock := tryLock(dir); lock != nil {
			errs = append(errs, (&scratch{dir: dir, lock: lock}).close())
		}
	}
	return errors.Join(errs...)
}

// close kills the processes in the scratch cgroup and removes it.
func (s *scratch) close() error {
	defer s.lock.Close()
	const patience = 5 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := errors.Join(kill(s.dir), removeTree(s.dir))
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// kill ends every process in a cgroup and below it.
func kill(dir string) error {
	err := writeControl(filepath.Join(dir, "cgroup.kill"), "1")
	if errors.Is(err, fs.ErrNotExist) {
		return killEach(dir)
	}
	return err
}

// killEach is kill before Linux 5.14. Who is forked meanwhile is met in the next round of close.
func killEach(dir string) error {
	return walk(dir, func(sub string) error {
		procs, err := os.ReadFile(filepath.Join(sub, "cgroup.procs"))
		for _, field := range strings.Fields(string(procs)) {
			// 0 is a process that cannot be seen from here, and would mean our own group to kill(2).
			if pid, _ := strconv.Atoi(field); pid > 0 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		return err
	})
}

// writeControl writes to a file of the kernel's, which it does not try to create.
func writeControl(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// removeTree removes a cgroup and those below it. A process that is still dying makes it fail.
func removeTree(dir string) error {
	return walk(dir, func(sub string) error {
		if err := os.Remove(sub); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove scratch cgroup: %w", err)
		}
		return nil
	})
}

// walk calls f for every directory below dir, the deepest first, and for dir at last.
func walk(dir string, f func(string) error) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := walk(filepath.Join(dir, e.Name()), f); err != nil {
				return err
			}
		}
	}
	return f(dir)
}

// cgroup2Mount finds the cgroup2 hierarchy, which on a hybrid host lies beside those of version 1.
func cgroup2Mount() (string, error) {
	mounts, err := procfs.GetMounts()
	if err != nil {
		return "", fmt.Errorf("list mounts: %w", err)
	}
	for _, m := range mounts {
		if m.FSType == "cgroup2" {
			return m.MountPoint, nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted: mount one with mount -t cgroup2 none <directory>")
}
