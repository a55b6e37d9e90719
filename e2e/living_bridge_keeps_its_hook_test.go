package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// With fail: closed the hook of a bridge that lives is not there to take, neither for cleanup nor for
// another bridge on the same cgroup, wherever that listens. Both say whose it is and change nothing.
func TestLivingBridgeKeepsItsHook(t *testing.T) {
	t.Parallel()
	i := newFaultyInstance(t)
	s := setting{redirector: redirectors[0], closed: true}
	b, callers := s.begin(t, i)
	elsewhere := []string{"--redirect.listen=169.254.20.253:8254", "--redirect.listen6=", "--admin.listen="}
	here := "--redirect.cgroup=" + i.Cgroup()
	refused := func(args ...string) {
		t.Helper()
		got := finish(t, i.Host().Start, command(t, append(args, here)...))
		want := fmt.Sprintf("process %d (stop it first)", b.cmd.Process.Pid)
		if got.ProcessState.ExitCode() != 1 || !strings.Contains(got.stderr, want) || got.stdout != "" {
			t.Errorf("%v: %v, said %q, want %q in %q", args, got.err, got.stdout, want, got.stderr)
		}
	}
	refused("cleanup")
	refused(append([]string{"cleanup"}, elsewhere...)...)
	for _, flags := range [][]string{{"--redirector=ebpf"}, {"--redirector=ebpf", "--fail=closed"}, {"--redirector=auto"}} {
		refused(append(append([]string{"run"}, flags...), elsewhere...)...)
	}
	refused("run", "--admin.listen=")
	i.checkAddresses(t, true)
	if i.hasAddress(t, "169.254.20.253") {
		t.Error("a second bridge left its address")
	}
	callers.awaitBridged(t, 5*time.Second)
	made := callers.stop(t)
	s.checkLost(t, made, nil)
	if away := made.that(s.away); len(away) > 0 {
		t.Errorf("refused: %s", away)
	}

	b.signal(t, syscall.SIGSTOP)
	refused(append([]string{"cleanup"}, elsewhere...)...)
	b.signal(t, syscall.SIGCONT)
	b.kill(t)
	if got := finish(t, i.Host().Start, command(t, "cleanup", here)); got.err != nil || !strings.Contains(got.stdout, ": removed\n") {
		t.Errorf("of a dead one: %v, said %q and %q", got.err, got.stdout, got.stderr)
	}
	i.checkNothingStays(t)
}
