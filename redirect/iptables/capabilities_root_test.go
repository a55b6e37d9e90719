//go:build root

package iptables

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

// users are the ways to have some capabilities and no others.
var users = map[string]func(names []string) func(*exec.Cmd){
	"root": func(names []string) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, boundVariable+"="+strings.Join(names, " ")) }
	},
	"another user": func(names []string) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) {
			attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
			for _, name := range names {
				attr.AmbientCaps = append(attr.AmbientCaps, uintptr(capabilityBits[name]))
			}
			cmd.SysProcAttr = attr
		}
	},
}

// lockFor lets another user than root take a lock of legacy tables, which is root's.
func lockFor(t *testing.T) func(*exec.Cmd) {
	t.Helper()
	lock, err := os.CreateTemp("", "lock") // not t.TempDir, which is for our user alone
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	t.Cleanup(func() { os.Remove(lock.Name()) })
	if err := lock.Chmod(0o666); err != nil {
		t.Fatal(err)
	}
	return func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "XTABLES_LOCKFILE="+lock.Name()) }
}

func TestRulesNeedTheirCapabilitiesAndNoOthers(t *testing.T) {
	t.Parallel()
	for _, backend := range backends() {
		for user, with := range users {
			t.Run(backend+" by "+user, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				lock := lockFor(t)
				b := startBridge(t, l, bridgeTask{Backend: backend, Closed: true}, with(Capabilities), lock)
				if b.Error != "" {
					t.Fatal(b.Error)
				}
				expectCapabilities(t, b.Guard, true)
				if a := b.do(t, "settle"); a.Error != "" {
					t.Error(a.Error)
				}
				answers(t, l.Host(), imds4, answerBridge)
				if a := b.do(t, "close"); a.Error != "" {
					t.Error(a.Error)
				}
				gone(t, b.Guard)
				sweepAll(t, l)
				for _, lacking := range Capabilities {
					others := slices.DeleteFunc(slices.Clone(Capabilities), func(name string) bool { return name == lacking })
					b := startBridge(t, l, bridgeTask{Backend: backend}, with(others), lock)
					if !strings.Contains(b.Error, lacking) {
						t.Errorf("without %s: %q", lacking, b.Error)
					}
				}
				expectNoRules(t, l.Host())
				expectNoSets(t, l.Host())
			})
		}
	}
}

func sweepAll(t *testing.T, l *lab.Lab) {
	t.Helper()
	if err := l.Host().Do(func() error { _, err := Sweep(Tools{}); return err }); err != nil {
		t.Error(err)
	}
}

// expectCapabilities looks at the guard: whether it has those of Capabilities, and no others.
func expectCapabilities(t *testing.T, pid int, want bool) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3, Pid: int32(pid)}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	var bits uint32
	for _, name := range Capabilities {
		bits |= 1 << capabilityBits[name]
	}
	if got := data[0].Effective == bits && data[1].Effective == 0; got != want {
		t.Errorf("the guard has capabilities %x %x, and shall have %x alone: %t", data[1].Effective, data[0].Effective, bits, want)
	}
}

func TestGuardDropsWhatItDoesNotNeed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	b := startBridge(t, l, bridgeTask{Backend: NFT})
	expectCapabilities(t, b.Guard, !hasCgo)
	// The programs that it starts have no more.
	if a := b.do(t, "close"); a.Error != "" {
		t.Error(a.Error)
	}
	expectNoRules(t, l.Host())
}

func init() {
	roles["install"] = func() error {
		_, err := Install(Rules{Listen: loopback4, Listen6: loopback6, Mark: mark, Tools: Tools{Backend: NFT}})
		return err
	}
}

// The init container of a sidecar.
func TestRulesWithoutAGuardNeedNetAdminAlone(t *testing.T) {
	t.Parallel()
	for user, with := range users {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			p := startRole(t, l.Host().Start, "install", nil, with([]string{"CAP_NET_ADMIN"}))
			if err := p.cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			if len(tables(t, l.Host())) == 0 {
				t.Error("there are no rules")
			}
			sweepAll(t, l)
			p = startRole(t, l.Host().Start, "install", nil, with(nil))
			if err := p.cmd.Wait(); err == nil {
				t.Error("it works without any capability")
			}
			expectNoRules(t, l.Host())
		})
	}
}
