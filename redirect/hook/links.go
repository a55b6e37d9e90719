package hook

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attachment is where one of the programs is attached.
type attachment struct {
	program string
	where   ebpf.AttachType
}

// attachments are in the order in which they are made: what a redirected connection needs comes
// first, what redirects comes last. They are taken away in the opposite order.
var attachments = []attachment{
	{hookProgSockOps, ebpf.AttachCGroupSockOps},
	{hookProgGetpeername4, ebpf.AttachCgroupInet4GetPeername},
	{hookProgGetpeername6, ebpf.AttachCgroupInet6GetPeername},
	{hookProgConnect4, ebpf.AttachCGroupInet4Connect},
	{hookProgConnect6, ebpf.AttachCGroupInet6Connect},
}

// placed is an attachment that was made.
type placed struct {
	attachment
	code   *ebpf.Program
	link   holder
	pinned bool
}

// holder is a link to a cgroup.
type holder interface {
	link.Link
	FD() int
}

func (h *Hook) attach(cgroup *os.File) error {
	var s unix.Stat_t
	if err := unix.Fstat(int(cgroup.Fd()), &s); err != nil {
		return err
	}
	h.cgroup = s.Ino
	code := map[string]*ebpf.Program{
		hookProgSockOps:      h.objects.SockOps,
		hookProgGetpeername4: h.objects.Getpeername4,
		hookProgGetpeername6: h.objects.Getpeername6,
		hookProgConnect4:     h.objects.Connect4,
		hookProgConnect6:     h.objects.Connect6,
	}
	for _, a := range attachments {
		if h.watching && !isConnect(a.where) {
			continue
		}
		l, err := place(cgroup, code[a.program], a.where)
		if err != nil {
			return err
		}
		h.links = append(h.links, placed{attachment: a, code: code[a.program], link: l})
	}
	return nil
}

// isConnect tells what redirects from what serves connections that were.
func isConnect(where ebpf.AttachType) bool {
	return where == ebpf.AttachCGroupInet4Connect || where == ebpf.AttachCGroupInet6Connect
}

// firstConnect is the index in links of the first program that redirects.
func (h *Hook) firstConnect() int {
	for i, a := range h.links {
		if isConnect(a.where) {
			return i
		}
	}
	return len(h.links)
}

// Links returns what holds the hook in place, but for what is pinned, in files named as the
// programs: as long as any process has them, it outlives Leave and the end of this one. They are
// for [DetachLinks]. The caller closes them.
func (h *Hook) Links() (files []*os.File, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.detached || h.closed {
		return nil, os.ErrClosed
	}
	for _, a := range h.links {
		if a.pinned {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(a.link.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("duplicate the link of %s: %w", a.program, err), closeFiles(files))
		}
		files = append(files, os.NewFile(uintptr(fd), a.program))
	}
	return files, nil
}

func closeFiles(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Leave is Close without taking the hook away. Whoever holds its [Hook.Links] keeps it in place,
// and it redirects for the time of grace; from then on it is that of a bridge that is silent.
func (h *Hook) Leave(grace time.Duration) error {
	now, err := monotonic()
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.detached || h.closed {
		return os.ErrClosed
	}
	h.detached = true
	return errors.Join(h.beat(max(now+grace-h.heartbeat, 1)), closeLinks(h.links), h.release())
}

// DetachLinks takes away the hook that an earlier bridge left in place: see [Hook.Links]. It does
// not close the files, and leaves alone what is no link of a hook. It is idempotent.
func DetachLinks(files []*os.File) error {
	type inherited struct {
		link.Link
		order int
	}
	var links []inherited
	var errs []error
	for _, f := range files {
		l, order, err := openLink(f)
		if err != nil {
			errs = append(errs, fmt.Errorf("detach %s: %w", f.Name(), err))
			continue
		}
		defer l.Close()
		links = append(links, inherited{l, order})
	}
	slices.SortStableFunc(links, func(a, b inherited) int { return cmp.Compare(b.order, a.order) })
	for _, l := range links {
		errs = append(errs, l.Detach())
	}
	return errors.Join(errs...)
}

// openLink makes a link of a file's, and says which of the attachments it is.
func openLink(f *os.File) (_ link.Link, order int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, 0, err
	}
	fd := -1
	if inner := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) }); inner != nil || err != nil {
		return nil, 0, errors.Join(inner, err)
	}
	l, err := link.NewFromFD(fd)
	if err != nil {
		return nil, 0, err
	}
	order, err = orderOf(l)
	if err != nil {
		return nil, 0, errors.Join(err, l.Close())
	}
	return l, order, nil
}

func orderOf(l link.Link) (int, error) {
	info, err := l.Info()
	if err != nil {
		return 0, err
	}
	if c := info.Cgroup(); c != nil {
		for i, a := range attachments {
			if ebpf.AttachType(c.AttachType) == a.where {
				return i, nil
			}
		}
	}
	return 0, errors.New("not a link of a hook")
}

// detachLinks leaves those that are pinned.
func detachLinks(links []placed) error {
	var errs []error
	for _, p := range links {
		if p.pinned {
			continue
		}
		// To close alone is not enough: a process that was just forked has a copy until its exec.
		errs = append(errs, p.link.Detach())
	}
	return errors.Join(append(errs, closeLinks(links))...)
}

func closeLinks(links []placed) error {
	var errs []error
	for _, p := range links {
		errs = append(errs, p.link.Close())
	}
	return errors.Join(errs...)
}
