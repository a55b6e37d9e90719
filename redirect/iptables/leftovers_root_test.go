//go:build root

package iptables

import (
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

// rules adds rules to a namespace by the programs that an operator would use.
func addRules(t testing.TB, n *lab.Namespace, lines ...string) {
	t.Helper()
	if err := n.Do(func() error {
		for _, line := range lines {
			fields := strings.Fields(line)
			if _, err := run(fields[0], 5, fields[1:]...); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestForeignRulesAreKeptAndNamed(t *testing.T) {
	t.Parallel()
	for _, backend := range backends() {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			program := "iptables-" + backend
			addRules(t, l.Host(),
				// One with a rule of somebody else, one that somebody else's rule leads to, one that is ours alone.
				program+" -t nat -N IMDS-BRIDGE-11111111",
				program+" -t nat -A IMDS-BRIDGE-11111111 -m mark --mark 0x2069/0xffff -m comment --comment imds-bridge-exempt -j RETURN",
				program+" -t nat -A IMDS-BRIDGE-11111111 -s 10.1.2.3 -j RETURN",
				program+" -t nat -A OUTPUT -d 169.254.169.254/32 -p tcp --dport 80 -m comment --comment imds-bridge-jump -j IMDS-BRIDGE-11111111",
				program+" -t nat -N IMDS-BRIDGE-22222222",
				program+" -t nat -A PREROUTING -s 10.1.2.4 -j IMDS-BRIDGE-22222222",
				program+" -t nat -N IMDS-BRIDGE-33333333",
				program+" -t nat -N IMDS-BRIDGES",
			)
			var left Leftovers
			if err := l.Host().Do(func() (err error) {
				left, err = Sweep(Tools{})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if len(left.Removed) != 1 || !strings.Contains(left.Removed[0], "IMDS-BRIDGE-33333333") {
				t.Errorf("removed %q", left.Removed)
			}
			slices.Sort(left.Kept)
			if len(left.Kept) != 2 || !strings.Contains(left.Kept[0], "10.1.2.3/32 -j RETURN") || !strings.Contains(left.Kept[1], "10.1.2.4/32 -j IMDS-BRIDGE-22222222") {
				t.Errorf("kept %q", left.Kept)
			}
			prefix := program + " -t nat "
			want := []string{
				prefix + "-N IMDS-BRIDGE-11111111", prefix + "-N IMDS-BRIDGE-22222222", prefix + "-N IMDS-BRIDGES",
				prefix + "-A PREROUTING -s 10.1.2.4/32 -j IMDS-BRIDGE-22222222",
				prefix + "-A IMDS-BRIDGE-11111111 -s 10.1.2.3/32 -j RETURN",
			}
			if got := tables(t, l.Host()); !slices.Equal(got, want) {
				t.Errorf("left are\n%s", strings.Join(got, "\n"))
			}
		})
	}
}

func TestRulesWithoutAGuardRefuseToShareAChain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	addRules(t, l.Host(), "iptables-nft -t nat -N IMDS-BRIDGE", "iptables-nft -t nat -A IMDS-BRIDGE -s 10.1.2.3 -j RETURN")
	before := tables(t, l.Host())
	err := l.Host().Do(func() error {
		_, err := Install(options(t, NFT).Rules)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "10.1.2.3") {
		t.Error(err)
	}
	if after := tables(t, l.Host()); !slices.Equal(before, after) {
		t.Errorf("rules are\n%s", strings.Join(after, "\n"))
	}
}

func TestHeldLockIsNamedAndNothingHalfInstalled(t *testing.T) {
	if !hasLegacy(t) { // those of nf_tables need no lock
		return
	}
	l := newLab(t)
	lock := filepath.Join(t.TempDir(), "lock")
	t.Setenv("XTABLES_LOCKFILE", lock)
	held, err := os.Create(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	b := startBridge(t, l, bridgeTask{Backend: Legacy, Locks: time.Second})
	if !strings.Contains(b.Error, "another program holds the lock") {
		t.Errorf("error %q", b.Error)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it took %s", took)
	}
	if err := unix.Flock(int(held.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	expectNoRules(t, l.Host())
	expectNoSets(t, l.Host())
	expectIMDS(t, l.Host(), call{To: imds4})
}

// The lock does not keep a dead bridge's calls from going to IMDS.
func TestKilledBridgeLeavesIMDSReachableWhileTheLockIsHeld(t *testing.T) {
	if !hasLegacy(t) { // those of nf_tables need no lock
		return
	}
	l := newLab(t)
	lock := filepath.Join(t.TempDir(), "lock")
	t.Setenv("XTABLES_LOCKFILE", lock)
	b := startBridge(t, l, bridgeTask{Backend: Legacy, Locks: time.Second})
	if b.Error != "" {
		t.Fatal(b.Error)
	}
	answers(t, l.Host(), imds4, answerBridge)
	held, err := os.Open(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	b.kill(t, unix.SIGKILL)
	if took := answers(t, l.Host(), imds4, answerIMDS); took > deathLimit {
		t.Errorf("calls failed for %s", took)
	}
	if err := unix.Flock(int(held.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	gone(t, b.Guard)
	expectNoRules(t, l.Host())
}

// lines notes what a process writes, and tells of each line.
type lines struct {
	to    io.Writer
	wrote chan string
}

func (l lines) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		l.wrote <- line
	}
	return l.to.Write(p)
}

// A stop outlasts a lock that is held for longer than a program of iptables waits for it.
func TestStopTriesAgainWhileTheLockIsHeld(t *testing.T) {
	if !hasLegacy(t) { // those of nf_tables need no lock
		return
	}
	l := newLab(t)
	lock := filepath.Join(t.TempDir(), "lock")
	t.Setenv("XTABLES_LOCKFILE", lock)
	said := lines{t.Output(), make(chan string, 1000)}
	b := startBridge(t, l, bridgeTask{Backend: Legacy, Locks: time.Second}, func(cmd *exec.Cmd) { cmd.Stderr = said })
	if b.Error != "" {
		t.Fatal(b.Error)
	}
	held, err := os.Open(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(b.in, "close\n"); err != nil {
		t.Fatal(err)
	}
	for line := ""; !strings.Contains(line, "not removed yet"); {
		select {
		case line = <-said.wrote:
		case <-time.After(patience):
			t.Fatal("the guard does not say that it tries again")
		}
	}
	if err := unix.Flock(int(held.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	var a told
	if b.read(t, &a); a.Error != "" {
		t.Error(a.Error)
	}
	gone(t, b.Guard)
	expectNoRules(t, l.Host())
	expectNoSets(t, l.Host())
}

// What cannot be removed in the end matches nothing, and the reason is named.
func TestRemovalIsGivenUpWhenTheLockIsHeldForTooLong(t *testing.T) {
	if !hasLegacy(t) {
		return
	}
	l := newLab(t)
	lock := filepath.Join(t.TempDir(), "lock")
	t.Setenv("XTABLES_LOCKFILE", lock)
	var g guard
	if err := l.Host().Do(func() (err error) {
		o := options(t, Legacy)
		o.LockTimeout = time.Second
		g = guard{log: slog.New(slog.NewTextHandler(t.Output(), nil))}
		g.set, err = newSet(o.Rules, "0123abcd")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(lock)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := l.Host().Do(func() error {
		_, err := g.remove(0)
		if err == nil || !strings.Contains(err.Error(), "another program holds the lock") {
			t.Errorf("rules are removed without the lock: %v", err)
		}
		return unix.Flock(int(held.Fd()), unix.LOCK_UN)
	}); err != nil {
		t.Fatal(err)
	}
	expectIMDS(t, l.Host(), call{To: imds4})
	sweepAll(t, l)
	expectNoRules(t, l.Host())
	expectNoSets(t, l.Host())
}
