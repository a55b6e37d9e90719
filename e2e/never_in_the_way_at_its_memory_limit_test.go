package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Connections in great number bring the bridge to the limit of its cgroup, and the kernel kills it.
func TestNeverInTheWayAtItsMemoryLimit(t *testing.T) { withEach(t, false, checkMemory) }

func TestFailClosedAtItsMemoryLimit(t *testing.T) { withEach(t, true, checkMemory) }

func checkMemory(t *testing.T, s setting) {
	i := newFaultyInstance(t)
	b, callers := s.begin(t, i)
	m := newMemory(t)
	m.add(t, b.cmd.Process.Pid)
	callers.awaitBridged(t, 5*time.Second)

	limited := time.Now()
	m.limit(t, m.used(t)+2<<20)
	var silent []*silentProcess
	for n := range 4 {
		silent = append(silent, i.launchSilent(t, 250, 0, user(n)))
	}
	select {
	case <-b.exited:
	case <-time.After(10 * time.Second):
		t.Fatal("the bridge lives on within its limit: this test saw nothing")
	}
	died := time.Now()
	time.Sleep(untilStraight)
	for _, p := range silent {
		p.stop(t)
	}
	again := time.Now()
	i.startBridge(t, s.options())
	callers.awaitBridged(t, 5*time.Second)
	made := callers.stop(t)

	o := s.outcome("memory limit", 1)
	o.count(made)
	o.Straight = made.that(s.failed).within(period{died, time.Now()}).until(died)
	o.Back = made.that(s.away).until(again)
	o.tell(t)
	const noticed = 300 * time.Millisecond // a death is noticed later than it comes
	s.checkLost(t, made, []period{{limited, limited.Add(untilStraight)}, {died.Add(-noticed), died.Add(s.lingers)}})
	s.checkAway(t, made, []period{{died, again}})
}

// memory is a cgroup that limits memory: one of the first version where that has the controller.
type memory struct {
	dir          string
	max, current string // names of files
}

func newMemory(t *testing.T) *memory {
	t.Helper()
	m := &memory{max: "memory.limit_in_bytes", current: "memory.usage_in_bytes"}
	top := "/sys/fs/cgroup/memory"
	if _, err := os.Stat(filepath.Join(top, m.max)); err != nil {
		m = &memory{max: "memory.max", current: "memory.current"}
		top = "/sys/fs/cgroup"
		write(t, filepath.Join(top, "cgroup.subtree_control"), "+memory")
	}
	var err error
	if m.dir, err = os.MkdirTemp(top, "imds-bridge-e2e-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		await(t, "the cgroup that limits memory is removed", 5*time.Second, func() bool { return os.Remove(m.dir) == nil })
	})
	return m
}

func (m *memory) add(t *testing.T, process int) {
	t.Helper()
	write(t, filepath.Join(m.dir, "cgroup.procs"), strconv.Itoa(process))
}

func (m *memory) limit(t *testing.T, bytes int) {
	t.Helper()
	write(t, filepath.Join(m.dir, m.max), strconv.Itoa(bytes))
}

func (m *memory) used(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.dir, m.current))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func write(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		t.Fatal(fmt.Errorf("write %s: %w", value, err))
	}
}
