package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The bridge is killed at moments of its start and after it, and started again as systemd would.
func TestNeverInTheWayWhenKilled(t *testing.T) {
	t.Parallel()
	withEach(t, false, func(t *testing.T, s setting) {
		t.Parallel()
		i := newFaultyInstance(t)
		callers := i.startStream(t, 4)
		var deaths, but []period
		for range s.times(s.kills) {
			b := i.launchBridge(t, s.options())
			time.Sleep(s.untilKilled + rand.N(300*time.Millisecond))
			death := b.kill(t)
			time.Sleep(s.untilRestarted)
			deaths = append(deaths, death)
			but = append(but, period{death.from, death.to.Add(s.lingers)})
		}
		made := callers.stop(t)

		o := s.outcome("SIGKILL", len(deaths))
		o.count(made)
		for _, d := range deaths {
			o.Straight = max(o.Straight, made.failed().within(period{d.from, d.to.Add(max(s.lingers, s.untilRestarted))}).until(d.from))
		}
		o.tell(t)
		s.checkLost(t, made, but)
		if upgraded, straight := made.that(call.bridged), made.that(call.straight); len(upgraded) == 0 || len(straight) == 0 {
			t.Errorf("%d calls by IMDSv1 were upgraded and %d went straight: this test saw nothing", len(upgraded), len(straight))
		}

		i.checkNothingStays(t)
		// The next one takes over what a dead bridge cannot take away.
		i.startBridge(t, s.options()).stop(t)
		i.checkAddresses(t, false)
	})
}

// kill returns from when to when the bridge died: its files are closed before its end can be seen.
func (b *bridge) kill(t *testing.T) (death period) {
	t.Helper()
	death.from = time.Now()
	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	err := unix.Waitid(unix.P_PID, b.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
	if err != nil && err != unix.ECHILD { // has been waited for
		t.Fatal(err)
	}
	death.to = time.Now()
	<-b.exited
	return death
}

// checkNothingStays looks for what a bridge could leave behind, once no client runs.
func (i *instance) checkNothingStays(t *testing.T) {
	t.Helper()
	// Some kernels take a link away on a work queue.
	await(t, "no hook is left", 5*time.Second, func() bool { return i.hooks(t) == 0 })
	if err := filepath.WalkDir(i.Cgroup(), func(path string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != i.Cgroup():
			t.Errorf("cgroup left: %s", path)
		case entry.Name() == "cgroup.procs":
			if processes, err := os.ReadFile(path); err != nil || len(processes) > 0 {
				t.Errorf("processes left in %s: %v, %s", path, err, strings.Fields(string(processes)))
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, table := range []string{"nat", "filter", "mangle"} {
			got := finish(t, i.Host().StartOutside, client{args: []string{program, "-t", table, "-S"}}.command())
			if got.err != nil {
				t.Fatalf("%s: %v, %s", program, got.err, got.stderr)
			}
			for rule := range strings.Lines(got.stdout) {
				if !strings.HasPrefix(rule, "-P ") {
					t.Errorf("%s: left in table %s: %s", program, table, rule)
				}
			}
		}
	}
}
