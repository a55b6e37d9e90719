package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestCleanupRemovesWhatADeadBridgeLeft(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	b := i.startBridge(t, bridgeOptions{})
	i.checkCleanup(t, "kept: somebody listens there")
	i.checkAddresses(t, true)
	i.bridgeToken(t) // it still serves

	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-b.exited
	i.checkAddresses(t, true)
	i.checkCleanup(t, "removed from lo")
	i.checkAddresses(t, false)
	i.checkCleanup(t, "nothing to remove")
}

// checkCleanup runs the verb, which is to say the same of each address.
func (i *instance) checkCleanup(t *testing.T, what string) {
	t.Helper()
	got := finish(t, i.Host().Start, command(t, "cleanup"))
	want := []string{"rules of iptables: nothing to remove"}
	for _, address := range listenAddresses {
		want = append(want, address+": "+what)
	}
	if lines := strings.Split(got.stdout, "\n"); got.err != nil || got.stderr != "" || !slices.Equal(lines, want) {
		t.Errorf("cleanup: %v, said %q, want %q; standard error: %s", got.err, lines, want, got.stderr)
	}
}

func (i *instance) checkAddresses(t *testing.T, there bool) {
	t.Helper()
	for _, address := range listenAddresses {
		if i.hasAddress(t, address) != there {
			t.Errorf("%s on lo: %t, want %t", address, !there, there)
		}
	}
}

// TestCleanupRemovesTheRulesOfADeadBridge: bridge and guard died together, as with their container, and nobody
// starts another.
func TestCleanupRemovesTheRulesOfADeadBridge(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	b := i.startBridge(t, bridgeOptions{flags: []string{byRules}})
	i.bridgeToken(t)
	sets := i.sets(t)
	if len(sets) != 2 { // IPv4 and IPv6
		t.Errorf("the rules match sets %q", sets)
	}

	b.signal(t, syscall.SIGSTOP) // so that it does nothing about the other's death
	guard, err := os.FindProcess(b.guard(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*os.Process{guard, b.cmd.Process} {
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	<-b.exited
	i.requireStraight(t)
	if left := i.sets(t); !slices.Equal(left, sets) {
		t.Errorf("rules with sets %q are left, want %q: there is nothing to clean up", left, sets)
	}

	got := finish(t, i.Host().Start, command(t, "cleanup"))
	if n := strings.Count(got.stdout, ": removed\n"); got.err != nil || got.stderr != "" || n != 2 {
		t.Errorf("cleanup: %v, said %q; standard error: %s", got.err, got.stdout, got.stderr)
	}
	if rules := i.rules(t); strings.Contains(strings.ToLower(rules), "imds-bridge") {
		t.Errorf("rules are left:\n%s", rules)
	}
	for _, set := range sets {
		// A set that is there could be matched.
		match := exec.Command("iptables", "-t", "nat", "-A", "OUTPUT", "-m", "set", "--match-set", set, "dst")
		if got := finish(t, i.Host().StartOutside, match); !strings.Contains(got.stderr, "doesn't exist") {
			t.Errorf("set %s is left: %v, %s", set, got.err, got.stderr)
		}
	}
	i.checkAddresses(t, false)
	i.checkCleanup(t, "nothing to remove")
}

// requireStraight waits until a call goes to IMDS as it came.
func (i *instance) requireStraight(t *testing.T) {
	t.Helper()
	await(t, "a call goes straight", 20*time.Second, func() bool {
		before := i.imds.Counts().V1
		finish(t, i.Host().Start, curl("/latest/meta-data/instance-id", "--max-time", "1"))
		return i.imds.Counts().V1 > before
	})
}

// guard is the process that guards the bridge's rules.
func (b *bridge) guard(t *testing.T) (pid int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", b.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range tasks {
		children, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for child := range strings.FieldsSeq(string(children)) {
			if args, _ := os.ReadFile("/proc/" + child + "/cmdline"); strings.HasSuffix(string(args), "\x00guard\x00") {
				fmt.Sscan(child, &pid)
			}
		}
	}
	if pid == 0 {
		t.Fatal("the bridge has no guard")
	}
	return pid
}

// rules are those of both families in which the bridge has some.
func (i *instance) rules(t *testing.T) (rules string) {
	t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		got := finish(t, i.Host().StartOutside, exec.Command(program, "--wait", "-t", "nat", "-S"))
		if got.err != nil {
			t.Fatalf("%s: %v, %s", program, got.err, got.stderr)
		}
		rules += got.stdout + "\n"
	}
	return rules
}

var setPattern = regexp.MustCompile(`--match-set (imds-bridge-\S+)`)

// sets are those that the bridge's rules match.
func (i *instance) sets(t *testing.T) (names []string) {
	t.Helper()
	for _, match := range setPattern.FindAllStringSubmatch(i.rules(t), -1) {
		names = append(names, match[1])
	}
	slices.Sort(names)
	return slices.Compact(names)
}
