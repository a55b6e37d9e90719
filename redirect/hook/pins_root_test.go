//go:build root

package hook

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

// newPins is a directory for pins that is not there yet, of a bpf file system.
func newPins(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Chmod(filepath.Dir(root), 0o755); err != nil { // for other users
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", root, "bpf", 0, "mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(root, "imds-bridge")
}

func pinnedAt(pins string) func(*Options) {
	return func(o *Options) { o.FailClosed, o.Pins = true, pins }
}

func (b *bridge) pin(t *testing.T) {
	t.Helper()
	if err := b.hook.Pin(); err != nil {
		t.Fatal(err)
	}
}

func TestForeignPinsAreKeptAndNamed(t *testing.T) {
	t.Parallel()
	pins := newPins(t)
	b := newBridge(t, pinnedAt(pins))
	if err := os.Mkdir(pins, 0o700); err != nil {
		t.Fatal(err)
	}
	// A map where a link should be, and the link of another kind under a name of its own.
	foreign := []string{filepath.Join(pins, "connect6"), filepath.Join(pins, "other")}
	if err := clone(t, b.hook.objects.HopLimits).Pin(foreign[0]); err != nil {
		t.Fatal(err)
	}
	if err := b.hook.links[0].link.Pin(foreign[1]); err != nil {
		t.Fatal(err)
	}
	if err := b.hook.Pin(); err == nil || !strings.Contains(err.Error(), foreign[0]) {
		t.Errorf("pinning over another's map: %v", err)
	}
	if _, err := os.Stat(filepath.Join(pins, "connect4")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half of the hook is pinned: %v", err)
	}
	removed, err := RemovePins(pins)
	for _, path := range foreign {
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s is not named: %v", path, err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s is gone: %v", path, err)
		}
	}
	if removed {
		t.Error("something was removed")
	}

	if err := os.Rename(foreign[0], filepath.Join(pins, "moved")); err != nil {
		t.Fatal(err)
	}
	b.pin(t)
	if err := b.hook.Close(); err != nil {
		t.Fatal(err)
	}
	if removed, err := RemovePins(pins); !removed || err == nil || strings.Contains(err.Error(), "connect") {
		t.Errorf("removed %t, %v", removed, err)
	}
}

func TestHookOfAnotherKindIsNoBridges(t *testing.T) {
	t.Parallel()
	pins := newPins(t)
	b := newBridge(t, pinnedAt(pins))
	if err := os.Mkdir(pins, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(pins, "connect4")
	if err := b.hook.links[0].link.Pin(path); err != nil { // that of sock_ops
		t.Fatal(err)
	}
	if err := b.hook.Pin(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("pinning: %v", err)
	}
	if removed, err := RemovePins(pins); removed || err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("removed %t, %v", removed, err)
	}
}

func TestHeartbeatOfAnotherKindIsNoBridges(t *testing.T) {
	t.Parallel()
	pins := newPins(t)
	b := newBridge(t, pinnedAt(pins))
	if err := os.Mkdir(pins, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(pins, "heartbeat")
	if err := clone(t, b.hook.objects.HopLimits).Pin(path); err != nil {
		t.Fatal(err)
	}
	_, removing := RemovePins(pins)
	for what, err := range map[string]error{"pinning": b.hook.Pin(), "silencing": Silence(pins), "removing": removing} {
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	expectAttached(t, b.Lab, 1)
}

func TestPinsOfAnotherCgroupAreNotTaken(t *testing.T) {
	t.Parallel()
	pins := newPins(t)
	other := newBridge(t, pinnedAt(pins))
	other.pin(t)
	if err := other.hook.Close(); err != nil {
		t.Fatal(err)
	}
	b := newBridge(t, pinnedAt(pins))
	if err := b.hook.Pin(); err == nil || !strings.Contains(err.Error(), pins) || !strings.Contains(err.Error(), "cleanup") {
		t.Errorf("pinning: %v", err)
	}
	if err := b.hook.Close(); err != nil {
		t.Fatal(err)
	}
	expectAttached(t, b.Lab, 0)
	other.expectRefused(t, other.Host(), call{To: imds4})
}

func TestPinsOfACgroupThatIsGoneAreReplaced(t *testing.T) {
	t.Parallel()
	pins := newPins(t)
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var h *Hook
	o := options(l)
	pinnedAt(pins)(&o)
	if err := l.Host().Do(func() (err error) {
		h, err = Attach(o)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.Pin(), h.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { // the kernel releases a cgroup's programs on a work queue
		held, err := link.LoadPinnedLink(filepath.Join(pins, "connect4"), nil)
		if err != nil {
			return err
		}
		defer held.Close()
		info, err := held.Info()
		if err == nil && info.Cgroup().CgroupId != 0 {
			err = errors.New("the cgroup lives")
		}
		return err
	})
	b := newBridge(t, pinnedAt(pins))
	b.pin(t)
	if err := b.hook.Detach(); err != nil {
		t.Fatal(err)
	}
	b.expectRefused(t, b.Host(), call{To: imds4})
}

func TestClosedBridgeNeedsABPFFileSystem(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	o := options(l)
	pinnedAt(filepath.Join(t.TempDir(), "pins"))(&o)
	_, err := Attach(o)
	if err == nil || !strings.Contains(err.Error(), o.Pins) || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("without one: %v", err)
	}
	expectAttached(t, l, 0)
	if _, err := os.Stat(o.Pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of pins: %v", err)
	}
}
