//go:build root

package hook

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/imds-bridge/imds-bridge/lab"
)

// users are the ways to have some capabilities and no others.
var users = map[string]func(task *bridgeTask, names []string) func(*exec.Cmd){
	"root": func(task *bridgeTask, names []string) func(*exec.Cmd) {
		task.Bound = names
		return func(*exec.Cmd) {}
	},
	"another user": func(_ *bridgeTask, names []string) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) {
			attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
			for _, name := range names {
				attr.AmbientCaps = append(attr.AmbientCaps, uintptr(capability(name)))
			}
			cmd.SysProcAttr = attr
		}
	},
}

// startWith starts a bridge with some capabilities and no others.
func startWith(t *testing.T, l *lab.Lab, user string, names []string) (*process, started) {
	t.Helper()
	return startTaskWith(t, l, user, names, bridgeTask{Cgroup: l.Cgroup(), Listen: listen4, Upstream: imds4})
}

func startTaskWith(t *testing.T, l *lab.Lab, user string, names []string, task bridgeTask) (*process, started) {
	t.Helper()
	change := users[user](&task, names)
	p := startRole(t, l.Host().Start, "bridge", task, change)
	var s started
	p.read(t, &s)
	var set uint64
	for _, name := range names {
		set |= 1 << capability(name)
	}
	if s.Capabilities != set {
		t.Fatalf("the bridge has capabilities %x, want %x", s.Capabilities, set)
	}
	return p, s
}

func TestBridgeWorksWithItsCapabilitiesAlone(t *testing.T) {
	t.Parallel()
	for user := range users {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			standIn(t, l, imds4)
			bridge, s := startWith(t, l, user, Capabilities)
			if s.Listen != "" || s.Attach != "" {
				t.Fatal(s.Listen, s.Attach)
			}
			client := start(t, l.Host(), []call{{To: imds4}}, as(54321, 54321))
			var got served
			bridge.read(t, &got)
			if got.Error != "" {
				t.Fatal(got.Error)
			}
			if got.Record.UID != 54321 || got.Record.PID != uint32(client.cmd.Process.Pid) || got.Record.Started == 0 {
				t.Errorf("record %+v", got.Record)
			}
			if got.Answer != "imds "+imds4 || got.HopLimit != 64 {
				t.Errorf("IMDS answers %q with hop limit %d", got.Answer, got.HopLimit)
			}
			if got.Counters["exempt"] != 1 || got.Counters["redirected"] != 1 || got.Counters["joined"] != 1 {
				t.Errorf("counters %v", got.Counters)
			}
			if s := client.next(t); s.Answer != "bridge" {
				t.Errorf("the client hears %q", s.Answer)
			}
			if err := bridge.end(); err != nil {
				t.Error(err)
			}
			if hasAddress(t, l.Host(), listen4.Addr()) {
				t.Errorf("%s is still there", listen4.Addr())
			}
			expectAttached(t, l, 0)
		})
	}
}

func TestBridgeWithOneCapabilityLessNamesItAndLeavesNothing(t *testing.T) {
	t.Parallel()
	for user := range users {
		for _, lacking := range Capabilities {
			t.Run(user+" without "+lacking, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				others := slices.DeleteFunc(slices.Clone(Capabilities), func(name string) bool { return name == lacking })
				_, s := startWith(t, l, user, others)
				if !strings.Contains(s.Attach, lacking) {
					t.Errorf("attaching says %q", s.Attach)
				}
				if admin := lacking == "CAP_NET_ADMIN"; admin != strings.Contains(s.Listen, lacking) {
					t.Errorf("listening says %q", s.Listen)
				}
				expectAttached(t, l, 0)
			})
		}
	}
}

// To pin needs no capability, but a directory to write to.
func TestClosedBridgePinsWithItsCapabilitiesAlone(t *testing.T) {
	t.Parallel()
	for user := range users {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			l, pins := newLab(t), newPins(t)
			task := bridgeTask{Cgroup: l.Cgroup(), Listen: listen4, Pins: pins}
			if user != "root" {
				_, s := startTaskWith(t, l, user, Capabilities, task)
				if !strings.Contains(s.Attach, pins) || !strings.Contains(s.Attach, "permission denied") {
					t.Errorf("pinning where it may not says %q", s.Attach)
				}
				expectAttached(t, l, 0)
				if err := os.Chown(filepath.Dir(pins), 12345, 12345); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second takes over what the first left
				bridge, s := startTaskWith(t, l, user, Capabilities, task)
				if s.Listen != "" || s.Attach != "" {
					t.Fatal(s.Listen, s.Attach)
				}
				expectAttached(t, l, 1)
				if err := bridge.end(); err != nil {
					t.Error(err)
				}
				expectConnectHooks(t, l, 1)
				expectRefused(t, l.Host(), callsTo(everyAddress...)...)
			}
			if removed, err := RemovePins(pins); !removed || err != nil {
				t.Errorf("removed %t, %v", removed, err)
			}
			expectAttached(t, l, 0)
		})
	}
}
