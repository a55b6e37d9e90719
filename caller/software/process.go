package software

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/caller"
)

// errOther is the answer when the process is another by now, or runs another program.
var errOther = errors.New("the process ended or runs another program")

// process is one that a caller was, held by its directory in /proc: whatever is read there is of
// this process, even when its pid is another's by now.
type process struct {
	caller *caller.Caller
	dir    int // /proc/<pid>, as O_PATH
	exe    int // its executable and its root, as O_PATH once held; they outlive the process
	root   int

	namespaces bool // the kernel has them

	exePath string // as the process sees it
	rootAt  string // "/" unless it is in a chroot: the way there from its mount namespace's root
	cwd     string // as the process sees it; "" if it is outside of the root
	id      identity
}

// fileID tells a file from others, and from what it was before it was written anew.
type fileID struct {
	dev, inode      uint64
	size, modified  int64
	modifiedSeconds int64
}

// identity is what software depends on.
type identity struct {
	exe  fileID
	view view
	runs uint64 // of an interpreter: a hash of what it runs
}

// view is what decides which files a process sees.
type view struct {
	rootDev, root uint64 // two containers of one image have the same executable, and other files beside it
	// Below one root, whoever has a mount namespace of his own puts there what he likes. Any user can
	// have one in a user namespace of his own; the kernel gives the number of an ended namespace to
	// another, and that of the first user namespace to none.
	mounts, users string
}

// openProcess finds the process of c, and what tells it apart. It reads nothing of the process's
// memory, and asks no file system that could be away.
func (f *Finder) openProcess(c *caller.Caller) (_ *process, err error) {
	dir, err := unix.Open(f.proc+"/"+strconv.FormatUint(uint64(c.PID), 10), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", c.PID, err)
	}
	p := &process{caller: c, dir: dir, exe: -1, root: -1, namespaces: f.namespaces}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	started, err := p.started()
	if err != nil {
		return nil, fmt.Errorf("read process %d: %w", c.PID, err)
	}
	if started != f.ticks(c.Origin.Started) {
		return nil, errOther
	}
	if err := p.identify(); err != nil {
		return nil, fmt.Errorf("identify process %d: %w", c.PID, err)
	}
	return p, nil
}

func (p *process) close() {
	for _, fd := range []int{p.dir, p.exe, p.root} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// hold opens the executable and the root, which can be read from then on even if the process ends. What
// is read there is kept under the identity, so they must be those it was made of: a process can leave its
// mount namespace between the two, but not come back to one that is not its own.
func (p *process) hold() (err error) {
	if p.exe, err = unix.Openat(p.dir, "exe", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the executable of process %d: %w", p.caller.PID, err)
	}
	if p.root, err = unix.Openat(p.dir, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the root of process %d: %w", p.caller.PID, err)
	}
	id, err := p.identity(handle{p.exe, ""}, handle{p.root, ""})
	if err != nil {
		return fmt.Errorf("identify process %d: %w", p.caller.PID, err)
	}
	if id.exe != p.id.exe || id.view != p.id.view {
		return errOther
	}
	return nil
}

func (p *process) identify() error {
	link, err := readLink(p.dir, "exe")
	if err != nil {
		return err
	}
	link = strings.TrimSuffix(link, " (deleted)")
	// A program that has begun since the caller was read is not the caller's. Where the caller shows
	// the path in another form there is nothing to compare.
	if isPlain(link) && link != p.caller.Executable {
		return errOther
	}
	if p.rootAt, err = readLink(p.dir, "root"); err != nil {
		return err
	}
	p.exePath = p.inside(link)
	if cwd, err := readLink(p.dir, "cwd"); err == nil {
		p.cwd = p.inside(cwd)
	}
	p.id, err = p.identity(handle{p.dir, "exe"}, handle{p.dir, "root"})
	return err
}

// handle names a file in a directory, or with no name the one that is open.
type handle struct {
	fd   int
	name string
}

// identity is that of an executable and a root of the process.
func (p *process) identity(exe, root handle) (id identity, err error) {
	if id.exe, err = status(exe); err != nil {
		return id, err
	}
	at, err := status(root)
	if err != nil {
		return id, err
	}
	id.view = view{rootDev: at.dev, root: at.inode}
	if !p.namespaces {
		return id, nil
	}
	if id.view.mounts, err = readLink(p.dir, "ns/mnt"); err != nil {
		return id, err
	}
	// A kernel can be without user namespaces.
	if id.view.users, err = readLink(p.dir, "ns/user"); errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return id, err
}

func isPlain(s string) bool {
	return len(s) <= maxPath && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// status is that of a file, from what the kernel knows without asking a server for it.
func status(h handle) (fileID, error) {
	var st unix.Statx_t
	err := unix.Statx(h.fd, h.name, unix.AT_STATX_DONT_SYNC|unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st)
	return fileID{
		dev:             unix.Mkdev(st.Dev_major, st.Dev_minor),
		inode:           st.Ino,
		size:            int64(st.Size),
		modified:        int64(st.Mtime.Nsec),
		modifiedSeconds: st.Mtime.Sec,
	}, err
}

// inside is a path of /proc as the process sees it: the kernel shows the whole way from the root of
// the mount namespace, not from that of a chroot. It is "" for what is outside.
func (p *process) inside(path string) string {
	if p.rootAt == "/" {
		if strings.HasPrefix(path, "/") {
			return path
		}
		return "" // (unreachable)/…
	}
	if path == p.rootAt {
		return "/"
	}
	if rest, ok := strings.CutPrefix(path, p.rootAt); ok && strings.HasPrefix(rest, "/") {
		return rest
	}
	return ""
}

// started is when the process started, in ticks since boot.
func (p *process) started() (uint64, error) {
	text, err := p.read("stat", 1<<10)
	if err != nil {
		return 0, err
	}
	// The name in the second field may hold anything, so the last bracket ends it.
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const third = 3
	if len(fields) <= 22-third {
		return 0, errors.New("malformed stat")
	}
	started, err := strconv.ParseUint(fields[22-third], 10, 64)
	if err != nil || fields[0] == "Z" || fields[0] == "X" {
		return 0, errOther
	}
	return started, nil
}

// ended tells that the process is gone, so that what could not be read of it tells nothing.
func (p *process) ended() bool {
	_, err := p.started()
	return err != nil
}

// read reads a file of the process's directory, up to limit bytes.
func (p *process) read(name string, limit int) (string, error) {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	var text []byte
	for len(text) < limit {
		text = slices.Grow(text, min(limit-len(text), 4<<10))
		n, err := unix.Read(fd, text[len(text):min(cap(text), limit)])
		if err != nil {
			return "", err
		}
		if n == 0 {
			break
		}
		text = text[:len(text)+n]
	}
	return string(text), nil
}

// maxMaps bounds what is read of a process's memory map; one with 500 libraries has 400 KiB.
const maxMaps = 8 << 20

// mapped are the paths of the files that the process has mapped, as it sees them.
func (p *process) mapped() ([]string, error) {
	text, err := p.read("maps", maxMaps)
	if err != nil {
		return nil, err
	}
	var paths []string
	last := ""
	for line := range strings.Lines(text) {
		_, path, found := strings.Cut(line, " /")
		if !found || path == last {
			continue
		}
		last = path
		path = strings.TrimSuffix(strings.TrimSuffix(path, "\n"), " (deleted)")
		if path = p.inside("/" + path); path != "" {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}
