package hook

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// queryEffective asks for what runs for a cgroup, wherever it is attached: BPF_F_QUERY_EFFECTIVE.
const queryEffective = 1

// place attaches a program beside those of others. Where one of them does not allow that, or would
// no longer run, it attaches nothing, and the error names it.
func place(cgroup *os.File, program *ebpf.Program, where ebpf.AttachType) (*link.RawLink, error) {
	before, err := programs(cgroup, where, queryEffective)
	if err != nil {
		return nil, fmt.Errorf("%s (needs %v): %w", where, Capabilities, err)
	}
	// A link and nothing else: link.AttachCgroup falls back to an attachment that outlives the
	// process, and would redirect to nowhere after a crash.
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: program, Attach: where})
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("%s: %w: %s holds the hook alone (its owner must attach it as a link or with BPF_F_ALLOW_MULTI, or detach it)",
			where, err, nearest(cgroup, where))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	after, err := programs(cgroup, where, queryEffective)
	for _, id := range before {
		if err == nil && !slices.Contains(after, id) {
			err = fmt.Errorf("it would take the place of %s (its owner must attach it as a link or with BPF_F_ALLOW_MULTI, or detach it)", nearest(cgroup, where, id))
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", where, err), l.Detach(), l.Close())
	}
	return l, nil
}

func programs(cgroup *os.File, where ebpf.AttachType, flags uint32) (ids []ebpf.ProgramID, err error) {
	q, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: where, QueryFlags: flags})
	if err != nil {
		return nil, err
	}
	for _, p := range q.Programs {
		ids = append(ids, p.ID)
	}
	return ids, nil
}

// nearest names the programs on the nearest cgroup that has any, from cgroup upwards: whether
// another may come beside them or below is theirs to say. With ids, only those count.
func nearest(cgroup *os.File, where ebpf.AttachType, only ...ebpf.ProgramID) string {
	const unknown = "a program out of our sight (see bpftool cgroup tree)"
	for dir := cgroup; ; {
		found, err := programs(dir, where, 0)
		if err != nil {
			return unknown
		}
		if len(only) > 0 {
			found = slices.DeleteFunc(found, func(id ebpf.ProgramID) bool { return !slices.Contains(only, id) })
		}
		if len(found) > 0 {
			return nameOf(found[0]) + " on " + pathOf(dir)
		}
		if dir = above(dir); dir == nil {
			return unknown
		}
		defer dir.Close()
	}
}

// nameOf names a program. Its own name is told to CAP_SYS_ADMIN alone.
func nameOf(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprintf("program %d (see bpftool prog show id %d)", id, id)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return fmt.Sprintf("program %d", id)
	}
	return fmt.Sprintf("program %d %q of type %s", id, info.Name, info.Type)
}

// above opens the cgroup above another, nil if there is none or it is mounted elsewhere.
func above(dir *os.File) *os.File {
	fd, err := unix.Openat(int(dir.Fd()), "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	up := os.NewFile(uintptr(fd), "..")
	var s unix.Statfs_t
	if err := unix.Fstatfs(fd, &s); err != nil || s.Type != unix.CGROUP2_SUPER_MAGIC || pathOf(up) == pathOf(dir) {
		up.Close()
		return nil
	}
	return up
}

func pathOf(dir *os.File) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return dir.Name()
	}
	return path
}
