//go:build root

package hook

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// expectInUse wants an error that names the pins, the process which has them, and what to do.
func expectInUse(t *testing.T, err error, pins string, process int) {
	t.Helper()
	want := fmt.Sprintf("%s: %s: process %d (stop it first)", pins, ErrInUse, process)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// A bridge that lives keeps its pinned hook, whether it serves, hangs or only looks dead: who wants it is
// told whose it is, and nothing changes. A dead one's is there to take.
func TestPinsOfABridgeThatLivesAreItsOwn(t *testing.T) {
	t.Parallel()
	l, pins := newLab(t), newPins(t)
	standIn(t, l, imds4, imds6)
	living := startRole(t, l.Host().StartOutside, "bridge", bridgeTask{Cgroup: l.Cgroup(), Listen: listen4, Pins: pins, Silent: true})
	var s started
	living.read(t, &s)
	if s.Listen != "" || s.Attach != "" {
		t.Fatal(s.Listen, s.Attach)
	}
	process := living.cmd.Process.Pid

	checkKept := func() {
		t.Helper()
		removed, err := RemovePins(pins)
		if expectInUse(t, err, pins, process); removed {
			t.Error("something was removed")
		}
		expectInUse(t, CheckUnused(pins), pins, process)
		expectInUse(t, Silence(pins), pins, process)
		for _, closed := range []bool{false, true} {
			o := options(l)
			o.FailClosed, o.Pins = closed, pins
			err := l.Host().Do(func() error {
				h, err := Attach(o)
				if err == nil {
					_ = h.Close()
				}
				return err
			})
			expectInUse(t, err, pins, process)
		}
		expectAttached(t, l, 1)
		expectRefused(t, l.Host(), callsTo(everyAddress...)...)
	}
	checkKept()
	if err := living.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	checkKept()

	if err := living.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = living.end()
	if err := CheckUnused(pins); err != nil {
		t.Errorf("of a dead one: %v", err)
	}
	if removed, err := RemovePins(pins); !removed || err != nil {
		t.Errorf("of a dead one: removed %t, %v", removed, err)
	}
	expectIMDS(t, l.Host(), call{To: imds4}, call{To: imds6})
}

// Two that start at once: the one that comes second to the pins does not take them from the first.
func TestOfTwoBridgesOnePins(t *testing.T) {
	t.Parallel()
	pins := newPins(t)
	first := newBridge(t, pinnedAt(pins))
	second := beside(t, first, pinnedAt(pins))
	for range 2 {
		first.pin(t)
		if err := second.hook.Pin(); !errors.Is(err, ErrInUse) {
			t.Errorf("the second: %v", err)
		}
	}
	expectCall(t, first, first.Host(), call{To: imds4})

	if err := first.hook.Close(); err != nil {
		t.Fatal(err)
	}
	second.pin(t)
	expectCall(t, second, second.Host(), call{To: imds4})
}

// A dead bridge's hook sends calls to its listener until it is silent. A next bridge that listens there
// could not say whose they are.
func TestHookOfADeadBridgeIsSilenced(t *testing.T) {
	t.Parallel()
	l, pins := newLab(t), newPins(t)
	standIn(t, l, imds4)
	dead := startRole(t, l.Host().StartOutside, "bridge", bridgeTask{Cgroup: l.Cgroup(), Listen: listen4, Pins: pins})
	var s started
	dead.read(t, &s)
	if s.Listen != "" || s.Attach != "" {
		t.Fatal(s.Listen, s.Attach)
	}
	if err := dead.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dead.end()
	if s := start(t, l.Host(), []call{{To: imds4}}).next(t); s.Error != "ECONNREFUSED" {
		t.Fatalf("a call says %q, and does not go to the listener of the dead: this test sees nothing", s.Error)
	}
	for range 2 {
		if err := Silence(pins); err != nil {
			t.Fatal(err)
		}
		expectRefused(t, l.Host(), call{To: imds4})
	}
	next := newBridgeIn(t, l, pinnedAt(pins))
	next.pin(t)
	expectCall(t, next, l.Host(), call{To: imds4})
	if err := next.hook.Close(); err != nil {
		t.Fatal(err)
	}
	if removed, err := RemovePins(pins); !removed || err != nil {
		t.Errorf("removed %t, %v", removed, err)
	}
	if err := Silence(pins); err != nil {
		t.Errorf("without a pinned hook: %v", err)
	}
}
