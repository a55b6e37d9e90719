//go:build root

package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

func init() { roles["finder"] = beFinder }

// find is what a finder does in mount and cgroup namespaces of its own, and what it finds.
type find struct {
	Unmount bool   // all mounts of cgroup2
	Mount   string // cgroup2 at this directory: the root of the cgroup namespace
	Below   string // directory below the root to attach to

	Path, Error string
	Inode       uint64
	Mounts      []string // of cgroup2, after it was found
	Attached    string   // error of attaching
	Closed      string   // error of the path after Close
}

// beFinder calls redirect.FindCgroup on a host of another kind.
func beFinder() error {
	var f find
	if err := json.Unmarshal([]byte(os.Getenv(taskVariable)), &f); err != nil {
		return err
	}
	for _, at := range cgroup2Mounts() {
		if f.Unmount {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				return err
			}
		}
	}
	if f.Mount != "" {
		if err := unix.Mount("none", f.Mount, "cgroup2", 0, ""); err != nil {
			return err
		}
	}
	cgroup, err := redirect.FindCgroup()
	f.Path, f.Error, f.Mounts = cgroup.Path, message(err), cgroup2Mounts()
	if err == nil {
		var s unix.Stat_t
		if err := unix.Stat(cgroup.Path, &s); err != nil {
			return err
		}
		f.Inode = s.Ino
		hook, err := Attach(Options{Cgroup: filepath.Join(cgroup.Path, f.Below), Connections: 16})
		f.Attached = message(err)
		if err == nil {
			err = hook.Close()
		}
		if err := errors.Join(err, cgroup.Close(), cgroup.Close()); err != nil {
			return err
		}
		_, err = os.Stat(cgroup.Path)
		f.Closed = message(err)
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func cgroup2Mounts() (points []string) {
	mounts, _ := procfs.GetMounts()
	for _, m := range mounts {
		if m.FSType == "cgroup2" {
			points = append(points, m.MountPoint)
		}
	}
	return points
}

// rootInode is that of the root of a cgroup2 hierarchy.
const rootInode = 1

// findOn lets a process in the lab's cgroup find the root, in namespaces of its own.
func findOn(t *testing.T, l *lab.Lab, f find, namespaces uintptr) find {
	t.Helper()
	_, below, _ := strings.Cut(l.Cgroup(), "/imds-bridge-lab-")
	f.Below = "imds-bridge-lab-" + below
	finder := startRole(t, l.Host().Start, "finder", f, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | namespaces}
	})
	finder.read(t, &f)
	return f
}

func TestCgroupIsFoundWhereItIsMounted(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	cgroup, err := redirect.FindCgroup()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(l.Cgroup(), cgroup.Path+"/") || inode(t, cgroup.Path) != rootInode {
		t.Errorf("%s is not the root above %s", cgroup.Path, l.Cgroup())
	}
	if err := errors.Join(cgroup.Close(), cgroup.Close()); err != nil {
		t.Error(err)
	}
	if inode(t, cgroup.Path) != rootInode {
		t.Errorf("%s is no longer mounted", cgroup.Path)
	}
}

func TestCgroupIsMountedWhereThereIsNone(t *testing.T) {
	t.Parallel()
	f := findOn(t, newLab(t), find{Unmount: true}, 0)
	if f.Error != "" || f.Inode != rootInode {
		t.Fatalf("found %s with inode %d: %s", f.Path, f.Inode, f.Error)
	}
	if f.Attached != "" {
		t.Error(f.Attached)
	}
	if len(f.Mounts) != 0 {
		t.Errorf("others see mounts at %v", f.Mounts)
	}
	if f.Closed == "" {
		t.Errorf("%s is still there after Close", f.Path)
	}
}

// As in a container with a cgroup namespace of its own, which is the default of Docker.
func TestCgroupOfAContainerIsNotTakenForTheRoot(t *testing.T) {
	t.Parallel()
	f := findOn(t, newLab(t), find{Unmount: true, Mount: t.TempDir()}, unix.CLONE_NEWCGROUP)
	if f.Path != "" || !strings.Contains(f.Error, f.Mount) {
		t.Errorf("found %s with inode %d, error %q", f.Path, f.Inode, f.Error)
	}
}

// As in a container with the host's cgroup2 mounted into it.
func TestCgroupOfTheHostIsFoundInAContainer(t *testing.T) {
	t.Parallel()
	f := findOn(t, newLab(t), find{Mount: t.TempDir()}, unix.CLONE_NEWCGROUP)
	if f.Error != "" || f.Inode != rootInode || f.Path == f.Mount {
		t.Errorf("found %s with inode %d, error %q", f.Path, f.Inode, f.Error)
	}
}

func TestAttachNamesTheDirectoryThatIsNone(t *testing.T) {
	t.Parallel()
	v1 := ""
	mounts, err := procfs.GetMounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if m.FSType == "cgroup" {
			v1 = m.MountPoint
		}
	}
	if v1 == "" { // a host of version 2 alone: mount a hierarchy without controllers
		v1 = t.TempDir()
		if err := unix.Mount("none", v1, "cgroup", 0, "none,name=imds-bridge-test"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(v1, unix.MNT_DETACH) })
	}
	for _, tt := range []struct {
		name, dir string
		want      error
	}{
		{"a cgroup of version 1", v1, redirect.ErrNotCgroup2},
		{"an ordinary directory", t.TempDir(), redirect.ErrNotCgroup2},
		{"no directory", filepath.Join(t.TempDir(), "none"), os.ErrNotExist},
	} {
		hook, err := Attach(Options{Cgroup: tt.dir, Connections: 16, Listen: listen4})
		if !errors.Is(err, tt.want) || !strings.Contains(fmt.Sprint(err), tt.dir) {
			t.Errorf("%s: %v, want %v and the path %s", tt.name, err, tt.want, tt.dir)
		}
		if hook != nil {
			t.Errorf("%s: attached", tt.name)
			hook.Close()
		}
	}
}
