package software

import (
	"errors"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxLinks = 40  // as the kernel follows
	maxSteps = 256 // elements of a path, with those of the links on it
)

// errNotRegular is the answer for a directory, device, FIFO or socket where a file is looked for.
var errNotRegular = errors.New("not a regular file")

// tree is the file system of a process, from its root down. Whatever links its files are, nothing
// outside can be reached.
//
// Each element of a path is opened by itself and links are followed here. openat2 with
// RESOLVE_IN_ROOT does the same in one call, but not before Linux 5.6, and not under the seccomp
// filters of many container runtimes.
type tree struct {
	root   int // a directory, as O_PATH
	budget *budget
}

// node is an open element of the tree.
type node struct {
	fd   int    // as O_PATH
	path string // without links
	stat unix.Stat_t
}

func (n node) close() { _ = unix.Close(n.fd) }

func (n node) is(kind uint32) bool { return n.stat.Mode&unix.S_IFMT == kind }

// walk opens what is at name, seen from the tree's root.
func (t tree) walk(name string) (node, error) {
	root := node{fd: t.root, path: "/"}
	if err := unix.Fstat(t.root, &root.stat); err != nil {
		return node{}, err
	}
	stack := []node{root}
	defer func() {
		for _, n := range stack[1:] {
			n.close()
		}
	}()
	rest, links := name, 0
	for range maxSteps {
		var element string
		element, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		top := stack[len(stack)-1]
		switch element {
		case "":
			return top.own(&stack)
		case ".":
			continue
		case "..":
			if len(stack) > 1 {
				top.close()
				stack = stack[:len(stack)-1]
			}
			continue
		}
		n, err := t.step(top, element)
		if err != nil {
			return node{}, err
		}
		if !n.is(unix.S_IFLNK) {
			stack = append(stack, n)
			continue
		}
		target, err := readLink(n.fd, "")
		n.close()
		if err != nil {
			return node{}, err
		}
		if links++; links > maxLinks {
			return node{}, unix.ELOOP
		}
		if rest = target + "/" + rest; strings.HasPrefix(target, "/") {
			for _, n := range stack[1:] {
				n.close()
			}
			stack = stack[:1]
		}
	}
	return node{}, unix.ENAMETOOLONG
}

// own takes the last node off the stack, to be closed by the caller.
func (n node) own(stack *[]node) (node, error) {
	if len(*stack) > 1 {
		*stack = (*stack)[:len(*stack)-1]
		return n, nil
	}
	fd, err := unix.FcntlInt(uintptr(n.fd), unix.F_DUPFD_CLOEXEC, 0)
	n.fd = fd
	return n, err
}

// step opens one element of a directory. It opens links themselves, and starts no device.
func (t tree) step(dir node, element string) (node, error) {
	if err := t.budget.open(); err != nil {
		return node{}, err
	}
	n := node{path: path.Join(dir.path, element)}
	var err error
	if n.fd, err = unix.Openat(dir.fd, element, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return node{}, err
	}
	if err = unix.Fstat(n.fd, &n.stat); err != nil {
		n.close()
		return node{}, err
	}
	return n, nil
}

func readLink(dir int, name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// open opens a regular file to be read.
func (t tree) open(name string) (*file, error) {
	n, err := t.walk(name)
	if err != nil {
		return nil, err
	}
	defer n.close()
	return t.read(n)
}

// read opens the file that n is, and no other that has taken its name since.
func (t tree) read(n node) (*file, error) {
	if !n.is(unix.S_IFREG) {
		return nil, errNotRegular
	}
	fd, err := reopen(n.fd)
	if err != nil {
		return nil, err
	}
	return &file{fd: fd, path: n.path, size: n.stat.Size, budget: t.budget}, nil
}

// pseudo are file systems whose regular files are none: to read one asks the kernel to do something.
var pseudo = map[int64]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true,
	unix.CGROUP_SUPER_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true, unix.BPF_FS_MAGIC: true,
	unix.SECURITYFS_MAGIC: true, unix.PSTOREFS_MAGIC: true, unix.EFIVARFS_MAGIC: true,
}

// reopen opens the regular file behind a descriptor to be read.
func reopen(fd int) (int, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, err
	}
	if pseudo[int64(fs.Type)] { //nolint:unconvert // an int32 on some architectures
		return 0, errNotRegular
	}
	return unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

// head reads the beginning of a file, up to limit bytes.
func (t tree) head(name string, limit int) ([]byte, error) {
	f, err := t.open(name)
	if err != nil {
		return nil, err
	}
	defer f.close()
	return f.head(limit)
}

// each calls do with the names in a directory until it says false.
func (t tree) each(name string, do func(name string) bool) error {
	n, err := t.walk(name)
	if err != nil {
		return err
	}
	defer n.close()
	return t.eachOf(n.fd, do)
}

func (t tree) eachOf(dir int, do func(name string) bool) error {
	if err := t.budget.open(); err != nil {
		return err
	}
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), "directory")
	defer d.Close()
	const batch = 256
	for {
		names, err := d.Readdirnames(batch)
		for _, name := range names {
			if err := t.budget.entry(); err != nil {
				return err
			}
			if !do(name) {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// file is a regular file, open to be read within the budget.
type file struct {
	fd     int
	path   string // as the process sees it
	size   int64
	budget *budget
}

func (f *file) close() { _ = unix.Close(f.fd) }

// ReadAt is that of [io.ReaderAt].
func (f *file) ReadAt(p []byte, offset int64) (int, error) {
	if err := f.budget.read(int(min(int64(len(p)), max(f.size-offset, 0)))); err != nil {
		return 0, err
	}
	for n := 0; ; {
		more, err := unix.Pread(f.fd, p[n:], offset+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if n += more; n == len(p) {
			return n, nil
		}
		if more == 0 {
			return n, io.EOF
		}
	}
}

func (f *file) head(limit int) ([]byte, error) {
	buf := make([]byte, min(int64(limit), f.size))
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return buf[:n], nil
}
