package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// PinsOf is where the hook of a bridge on a cgroup is pinned if it fails closed: bridges of different
// cgroups do not touch each other's.
func PinsOf(cgroup string) (string, error) {
	info, err := os.Stat(cgroup)
	if err != nil {
		return "", fmt.Errorf("redirect.cgroup: %w", err)
	}
	return fmt.Sprintf("/sys/fs/bpf/imds-bridge-%d", info.Sys().(*syscall.Stat_t).Ino), nil
}

// Pin keeps what redirects in place beyond the end of the process, however that ends: calls are
// refused from then on. It replaces what an earlier bridge pinned, at once and for good, so the
// hook should be proven by now; that of a bridge which lives it replaces with Options.Succeeds alone, and
// returns [ErrInUse] else. It is idempotent. It is for Options.FailClosed, and needs write access to the
// directory of Options.Pins or, if there is none yet, to the one above.
func (h *Hook) Pin() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.detached || h.closed {
		return os.ErrClosed
	}
	if err := checkPins(h.pins); err != nil {
		return err
	}
	if err := os.Mkdir(h.pins, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the directory of the hook's pins: %w", err)
	}
	return h.claiming(h.pinAll)
}

// claiming does something with the pins that are this hook's from now on, or would be.
func (h *Hook) claiming(do func() error) error {
	if h.claim != nil {
		return do()
	}
	how := unix.LOCK_EX
	if h.succeeds {
		how = unix.LOCK_SH
	}
	claimed, err := claim(h.pins, how)
	if err != nil {
		return err
	}
	err = do()
	if err == nil { // no longer alone, for whoever succeeds this bridge; another may come in between
		err = claimed.lock(unix.LOCK_SH)
	}
	if err != nil {
		return errors.Join(err, claimed.Close())
	}
	h.claim = claimed
	return nil
}

func (h *Hook) pinAll() error {
	if err := h.pinHeartbeat(); err != nil {
		return fmt.Errorf("pin the hook: %w", err)
	}
	redirecting := h.links[h.firstConnect():]
	earlier := make([]*pinned, len(redirecting))
	for i, p := range redirecting { // all of them before the first change
		var err error
		if earlier[i], err = h.loadEarlier(p); err != nil {
			return fmt.Errorf("pin the hook: %w", err)
		}
		defer earlier[i].close()
	}
	for i := range redirecting {
		if err := h.pin(&redirecting[i], earlier[i]); err != nil {
			return fmt.Errorf("pin the hook: %w", err)
		}
	}
	return nil
}

// checkPins says whether links can be pinned in a directory, which need not be there yet. A bpf
// file system mounted for the purpose would be gone with our mount namespace, and every pin with it.
func checkPins(dir string) error {
	var s unix.Statfs_t
	err := unix.Statfs(dir, &s)
	if errors.Is(err, fs.ErrNotExist) {
		err = unix.Statfs(filepath.Dir(dir), &s)
	}
	if err == nil && s.Type != unix.BPF_FS_MAGIC {
		err = errors.New("not a bpf file system")
	}
	if err != nil {
		return fmt.Errorf("fail: closed needs %s to pin the hook there: %w (mount -t bpf bpf /sys/fs/bpf; in a container, mount the host's /sys/fs/bpf; or set fail: open)", dir, err)
	}
	return nil
}

func (h *Hook) pinPath(p placed) string { return filepath.Join(h.pins, p.program) }

// loadEarlier opens what a bridge pinned where p is to be pinned, nil if there is nothing.
func (h *Hook) loadEarlier(p placed) (*pinned, error) {
	earlier, err := loadPin(h.pinPath(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && earlier.cgroup != h.cgroup && earlier.cgroup != 0 {
		err = fmt.Errorf("%s is of a bridge on another cgroup: imds-bridge cleanup removes it", h.pinPath(p))
		return nil, errors.Join(err, earlier.link.Close())
	}
	return earlier, err
}

// pin pins a link, or puts its program into the one that is pinned already.
func (h *Hook) pin(p *placed, earlier *pinned) error {
	if p.pinned { // should one that was to take over have put its own there, and not lived
		return p.link.Update(p.code)
	}
	if earlier != nil && earlier.cgroup == 0 { // and the link is no longer attached to anything
		if err := earlier.link.Unpin(); err != nil {
			return err
		}
		earlier = nil
	}
	if earlier == nil {
		if err := p.link.Pin(h.pinPath(*p)); err != nil {
			return err
		}
		p.pinned = true
		return nil
	}
	if err := earlier.link.Update(p.code); err != nil {
		return err
	}
	err := errors.Join(p.link.Detach(), p.link.Close())
	p.link, p.pinned, earlier.link = earlier.link, true, nil
	return err
}

// heartbeatPin is the name of the map that holds the heartbeat of the hook.
const heartbeatPin = "heartbeat"

// pinHeartbeat pins what [Silence] needs. It comes before the links: what these run is never of a bridge
// that is dead and cannot be silenced.
func (h *Hook) pinHeartbeat() error {
	earlier, err := loadHeartbeat(h.pins)
	if err != nil {
		return err
	}
	path := filepath.Join(h.pins, heartbeatPin)
	if earlier != nil {
		if err := errors.Join(earlier.Close(), os.Remove(path)); err != nil {
			return err
		}
	}
	own, err := h.objects.Variables.Clone() // which has not been pinned yet
	if err != nil {
		return err
	}
	return errors.Join(own.Pin(path), own.Close())
}

// loadHeartbeat opens the map that a bridge pinned in a directory, nil if there is none.
func loadHeartbeat(dir string) (*ebpf.Map, error) {
	path := filepath.Join(dir, heartbeatPin)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && (m.Type() != ebpf.Array || m.KeySize() != 4 || m.ValueSize() != 8 || m.MaxEntries() != 1) {
		err = errors.Join(errors.New("the map is of another kind"), m.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("%s is not of a bridge, and in its way: %w", path, err)
	}
	return m, nil
}

// pinned is a link that a bridge pinned.
type pinned struct {
	link   holder
	cgroup uint64 // its id, 0 if it is gone
}

// close is for one that nobody took, or for none.
func (p *pinned) close() {
	if p != nil && p.link != nil {
		_ = p.link.Close()
	}
}

// loadPin opens a link that a bridge pinned. The error is fs.ErrNotExist if there is nothing.
func loadPin(path string) (*pinned, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%s is not of a bridge, and in its way: %w", path, err)
	}
	info, err := l.Info()
	if err == nil {
		c := info.Cgroup()
		if held, ok := l.(holder); ok && c != nil && isConnect(ebpf.AttachType(c.AttachType)) {
			return &pinned{held, c.CgroupId}, nil
		}
		err = errors.New("the link is of another kind")
	}
	return nil, errors.Join(fmt.Errorf("%s is not of a bridge, and in its way: %w", path, err), l.Close())
}

// RemovePins takes away the hook that a dead bridge pinned in a directory, and the directory. It tells
// whether there was any. That of a bridge which lives stays, with [ErrInUse]. What no bridge pinned is
// kept, and named in the error.
func RemovePins(dir string) (removed bool, err error) {
	claimed, err := claim(dir, unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer claimed.Close()
	entries, err := claimed.ReadDir(-1)
	if err != nil {
		return false, fmt.Errorf("look for a pinned hook: %w", err)
	}
	var foreign []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		ours, err := removePin(dir, e.Name())
		switch {
		case !ours:
			foreign = append(foreign, path)
		case err != nil:
			return removed, fmt.Errorf("remove %s: %w", path, err)
		default:
			removed = removed || e.Name() != heartbeatPin
		}
	}
	if len(foreign) > 0 {
		return removed, fmt.Errorf("kept what no bridge pinned: %s", strings.Join(foreign, ", "))
	}
	if err := os.Remove(dir); err != nil {
		return removed, fmt.Errorf("remove the directory of the hook's pins: %w", err)
	}
	return removed, nil
}

// removePin takes away one of the files of a directory, if a bridge pinned it.
func removePin(dir, name string) (ours bool, err error) {
	path := filepath.Join(dir, name)
	switch name {
	case heartbeatPin:
		m, err := loadHeartbeat(dir)
		if m == nil || err != nil {
			return false, err
		}
		return true, errors.Join(m.Close(), os.Remove(path))
	case hookProgConnect4, hookProgConnect6:
		p, err := loadPin(path)
		if err != nil {
			return false, err
		}
		// To unpin alone is not enough: somebody may have it open.
		return true, errors.Join(p.link.Detach(), p.link.Unpin(), p.link.Close())
	}
	return false, nil
}
