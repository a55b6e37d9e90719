package software

import (
	"errors"
	"fmt"
	"os"
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

	exePath string // as the process sees it
	rootAt  string // "/" unless it is in a chroot: the way there from its mount namespace's root
	cwd     string // as the process sees it; "" if it is outside of the root
	id      identity
	envEnd  uintptr // where its environment ends in its memory, and the name of the program begins
}

// fileID tells a file from others, and from what it was before it was written anew.
type fileID struct {
	dev, inode      uint64
	size, modified  int64
	modifiedSeconds int64
}

// identity is what software depends on.
type identity struct {
	exe     fileID
	rootDev uint64 // two containers of one image have the same executable, and other files beside it
	root    uint64
	runs    uint64 // of an interpreter: a hash of what it runs
}

// openProcess finds the process of c, and what tells it apart. It reads nothing of the process's
// memory, and asks no file system that could be away.
func (f *Finder) openProcess(c *caller.Caller) (_ *process, err error) {
	dir, err := unix.Open(f.proc+"/"+strconv.FormatUint(uint64(c.PID), 10), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", c.PID, err)
	}
	p := &process{caller: c, dir: dir, exe: -1, root: -1}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	fields, err := p.stat()
	if err != nil {
		return nil, fmt.Errorf("read process %d: %w", c.PID, err)
	}
	if fields.started != f.ticks(c.Origin.Started) {
		return nil, errOther
	}
	p.envEnd = fields.envEnd
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

// hold opens the executable and the root, which can be read from then on even if the process ends.
func (p *process) hold() (err error) {
	if p.exe, err = unix.Openat(p.dir, "exe", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the executable of process %d: %w", p.caller.PID, err)
	}
	if p.root, err = unix.Openat(p.dir, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the root of process %d: %w", p.caller.PID, err)
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
	exe, err := status(p.dir, "exe")
	if err != nil {
		return err
	}
	root, err := status(p.dir, "root")
	if err != nil {
		return err
	}
	p.id = identity{exe: idOf(exe), rootDev: idOf(root).dev, root: root.Ino}
	return nil
}

func isPlain(s string) bool {
	return len(s) <= maxPath && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// status is that of a file, from what the kernel knows without asking a server for it.
func status(dir int, name string) (unix.Statx_t, error) {
	var st unix.Statx_t
	err := unix.Statx(dir, name, unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS, &st)
	return st, err
}

func idOf(st unix.Statx_t) fileID {
	return fileID{
		dev:             unix.Mkdev(st.Dev_major, st.Dev_minor),
		inode:           st.Ino,
		size:            int64(st.Size),
		modified:        int64(st.Mtime.Nsec),
		modifiedSeconds: st.Mtime.Sec,
	}
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

// statFields are those wanted of /proc/<pid>/stat.
type statFields struct {
	started uint64 // in ticks since boot
	envEnd  uintptr
}

func (p *process) stat() (statFields, error) {
	text, err := p.read("stat", 1<<10)
	if err != nil {
		return statFields{}, err
	}
	// The name in the second field may hold anything, so the last bracket ends it.
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const third = 3
	if len(fields) <= 22-third {
		return statFields{}, errors.New("malformed stat")
	}
	started, err := strconv.ParseUint(fields[22-third], 10, 64)
	if err != nil || fields[0] == "Z" || fields[0] == "X" {
		return statFields{}, errOther
	}
	s := statFields{started: started}
	if len(fields) > 51-third { // since Linux 3.5
		end, _ := strconv.ParseUint(fields[51-third], 10, 64)
		s.envEnd = uintptr(end)
	}
	return s, nil
}

// ended tells that the process is gone, so that what could not be read of it tells nothing.
func (p *process) ended() bool {
	_, err := p.stat()
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

// invoked is the path by which the program was started: the kernel puts it on the stack, behind the
// environment. Unlike the executable it is not free of links, and of a script it is the script's.
// No file of /proc shows it. It is "" when it cannot be told.
func (p *process) invoked(ownPIDs bool) string {
	if p.envEnd == 0 || !ownPIDs {
		return ""
	}
	buf := make([]byte, unix.PathMax)
	// The stack may end with the page.
	first := min(os.Getpagesize()-int(p.envEnd)%os.Getpagesize(), len(buf))
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	remote := []unix.RemoteIovec{
		{Base: p.envEnd, Len: first},
		{Base: p.envEnd + uintptr(first), Len: len(buf) - first},
	}
	n, err := unix.ProcessVMReadv(int(p.caller.PID), local, remote, 0)
	if err != nil || p.ended() { // the pid was ours while it was read
		return ""
	}
	path, _, found := strings.Cut(string(buf[:n]), "\x00")
	if !found {
		return ""
	}
	return path
}
