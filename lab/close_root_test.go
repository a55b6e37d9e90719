//go:build root

package lab_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
)

func TestCloseLeavesNothing(t *testing.T) { // not parallel: it counts what the process holds
	useAndClose(t) // opens what the runtime keeps for itself
	before := openFiles(t)
	l, inodes := useAndClose(t)
	if after := openFiles(t); after != before {
		t.Errorf("%d open files, %d before", after, before)
	}
	if _, err := os.Stat(filepath.Dir(l.Cgroup())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("scratch cgroup is still there: %v", err)
	}
	for _, inode := range inodes {
		eventually(t, "namespace "+inode+" ends", func() bool { return len(holders(inode)) == 0 })
	}
	if err := l.Host().Start(exec.Command("true")); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("Start after Close: %v", err)
	}
	if err := l.Host().Do(func() error { return nil }); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("Do after Close: %v", err)
	}
	if _, err := l.AddContainer("late"); !errors.Is(err, lab.ErrClosed) {
		t.Errorf("AddContainer after Close: %v", err)
	}
}

// useAndClose makes a lab, leaves processes running everywhere in it and closes it.
func useAndClose(t *testing.T) (*lab.Lab, []string) {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	container := addContainer(t, l, "one")
	var inodes []string
	for _, n := range []*lab.Namespace{l.IMDS(), l.Host(), container} {
		inode, err := os.Readlink(n.Path())
		if err != nil {
			t.Fatal(err)
		}
		if len(holders(inode)) == 0 {
			t.Errorf("nobody holds namespace %s", inode)
		}
		inodes = append(inodes, inode)
	}
	var shells []*exec.Cmd
	for _, start := range []func(*exec.Cmd) error{l.Host().Start, l.Host().StartOutside, container.Start} {
		cmd := exec.Command("sh", "-c", "sleep 1000 & wait")
		if err := start(cmd); err != nil {
			t.Fatal(err)
		}
		shells = append(shells, cmd)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, cmd := range shells {
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("process ended with %v", err)
		}
	}
	return l, inodes
}

// The test binary plays the process that is killed. All of it happens below the cgroup of another
// lab, out of the way of whoever else makes labs on this machine.
func TestNextLabSweepsWhatAKilledOneLeft(t *testing.T) {
	if parent := os.Getenv("LAB_TEST_PARENT"); parent != "" {
		beVictim(t, parent)
	}
	parent := newLab(t).Cgroup()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "LAB_TEST_PARENT="+parent)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var cgroup, mortal, survivor string
	if _, err := fmt.Fscan(out, &cgroup, &mortal, &survivor); err != nil {
		t.Fatal(err)
	}

	living := newLabBelow(t, parent)
	if _, err := os.Stat(cgroup); err != nil {
		t.Errorf("a living lab was swept: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "process ends with the one that started it", func() bool { return gone(mortal) })
	if gone(survivor) {
		t.Fatal("the process that shall outlive its parent did not")
	}

	newLabBelow(t, parent)
	if _, err := os.Stat(filepath.Dir(cgroup)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cgroup of the dead lab is still there: %v", err)
	}
	eventually(t, "process of the dead lab ends", func() bool { return gone(survivor) })
	if _, err := os.Stat(living.Cgroup()); err != nil {
		t.Errorf("a living lab was swept: %v", err)
	}
}

// beVictim makes a lab and two processes, of which one outlives this one, says so and waits.
func beVictim(t *testing.T, parent string) {
	l := newLabBelow(t, parent)
	mortal := exec.Command("sleep", "1000")
	if err := l.Host().Start(mortal); err != nil {
		t.Fatal(err)
	}
	shell := exec.Command("sh", "-c", "sleep 1000 & echo $!") // its child is nobody's
	survivor, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Host().Start(shell); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(survivor, &pid); err != nil {
		t.Fatal(err)
	}
	fmt.Println(l.Cgroup(), mortal.Process.Pid, pid)
	select {}
}

func gone(pid string) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// holders are the threads in a network namespace and the open files that name it.
func holders(inode string) []string {
	var found []string
	for _, pattern := range []string{"/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		links, _ := filepath.Glob(pattern)
		for _, link := range links {
			if to, _ := os.Readlink(link); to == inode {
				found = append(found, link)
			}
		}
	}
	return found
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 100 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("in vain: %s", what)
}
