//go:build root

package watch

import (
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// users are the ways to have some capabilities and no others.
var users = map[string]func(task *watcherTask, names []string) func(*exec.Cmd){
	"root": func(task *watcherTask, names []string) func(*exec.Cmd) {
		task.Bound = names
		return func(*exec.Cmd) {}
	},
	"another user": func(_ *watcherTask, names []string) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) {
			attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
			for _, name := range names {
				attr.AmbientCaps = append(attr.AmbientCaps, uintptr(capability(name)))
			}
			cmd.SysProcAttr = attr
		}
	},
}

// watchWith starts a watch with some capabilities and no others.
func watchWith(t *testing.T, p *place, user string, names []string) (*process, watched) {
	t.Helper()
	task := watcherTask{Cgroup: p.Cgroup()}
	change := users[user](&task, names)
	w := startRole(t, p.Host().StartOutside, "watcher", task, change)
	var first watched
	w.read(t, &first)
	var set uint64
	for _, name := range names {
		set |= 1 << capability(name)
	}
	if first.Capabilities != set {
		t.Fatalf("the watch has capabilities %x, want %x", first.Capabilities, set)
	}
	return w, first
}

func TestWatchWorksWithItsCapabilitiesAlone(t *testing.T) {
	t.Parallel()
	for user := range users {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, simulator.Behaviour{})
			old := start(t, p.Host(), []call{{To: imds4, Wait: true}})
			old.next(t)
			w, first := watchWith(t, p, user, Capabilities)
			if first.Attach != "" || first.Close != "" {
				t.Fatal(first.Attach, first.Close)
			}
			start(t, p.Host(), []call{{To: imds6, Send: []string{getID}, Reads: 1}}).next(t)
			var x Exchange
			w.read(t, &x)
			if x.Target != "/latest/meta-data/instance-id" || x.Status != 200 {
				t.Errorf("told %+v", x)
			}
			if err := w.end(); err != nil {
				t.Error(err)
			}
			if n := attached(t, p); n != 0 {
				t.Errorf("%d programs are attached", n)
			}
		})
	}
}

func TestWatchWithOneCapabilityLessNamesItAndLeavesNothing(t *testing.T) {
	t.Parallel()
	for user := range users {
		for _, lacking := range Capabilities {
			t.Run(user+" without "+lacking, func(t *testing.T) {
				t.Parallel()
				p := newPlace(t, simulator.Behaviour{})
				old := start(t, p.Host(), []call{{To: imds4, Wait: true}})
				old.next(t)
				others := slices.DeleteFunc(slices.Clone(Capabilities), func(name string) bool { return name == lacking })
				w, first := watchWith(t, p, user, others)
				if !strings.Contains(first.Attach, lacking) {
					t.Errorf("attaching says %q", first.Attach)
				}
				if admin := lacking == "CAP_NET_ADMIN"; admin != strings.Contains(first.Close, lacking) {
					t.Errorf("closing says %q", first.Close)
				}
				_ = w.end()
				if n := attached(t, p); n != 0 {
					t.Errorf("%d programs are attached", n)
				}
			})
		}
	}
}
