//go:build root

package caller

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
)

// newCgroups makes a cgroup for each name.
func newCgroups(t *testing.T, names ...string) []string {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	dirs := make([]string, len(names))
	for i, name := range names {
		dirs[i] = filepath.Join(l.Cgroup(), name)
		if err := os.MkdirAll(dirs[i], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dirs
}

// cgroupID is what the kernel's record says of a process in that cgroup.
func cgroupID(t *testing.T, dir string) uint64 {
	t.Helper()
	var s syscall.Stat_t
	if err := syscall.Stat(dir, &s); err != nil {
		t.Fatal(err)
	}
	return s.Ino
}

// A process that changes its name, its arguments and its cgroup between calls.
func TestProcessThatChanges(t *testing.T) {
	t.Parallel()
	cgroups := newCgroups(t, "docker-"+id1+".scope", "web.service", "kubepods/pod"+podUID1+"/"+id2)
	p := start(t, "change", func(cmd *exec.Cmd) { cmd.Args = []string{"first", "--verbose"} })
	order := func(what string) {
		t.Helper()
		if _, err := fmt.Fprintln(p.stdin, what); err != nil {
			t.Fatal(err)
		}
		p.line(t)
	}
	r := newReader(t, Options{})
	call := func(cgroup string) *Caller {
		o := origin(t, p.pid) // has the name as the kernel's record would
		o.CgroupID = cgroupID(t, cgroup)
		return named(t, r, o)
	}

	order("cgroup " + cgroups[0])
	if c := call(cgroups[0]); c.ContainerID != id1 || c.ContainerRuntime != "docker" || c.User != "" || !slices.Equal(c.Args, words("first --verbose")) {
		t.Errorf("in the first container: %+v", c)
	}
	order("name second")
	order("cgroup " + cgroups[1])
	order("args other")
	c := call(cgroups[1])
	if c.ContainerID != "" || c.Place.Unit != "web.service" || c.Starter.Name != "web.service" || c.User != "root" {
		t.Errorf("in the unit: %+v", c)
	}
	if c.Comm != "second" || !slices.Equal(c.Args, words("other --verbose")) {
		t.Errorf("after the unit it is %q %q", c.Comm, c.Args)
	}
	order("cgroup " + cgroups[2])
	if c := call(cgroups[2]); c.ContainerID != id2 || c.Place.PodUID != podUID1 {
		t.Errorf("in the pod: %+v", c)
	}
	order("name third")
	order("cgroup " + cgroups[0])
	if c := call(cgroups[0]); c.ContainerID != id1 || c.Comm != "third" {
		t.Errorf("back in the first container: %+v", c)
	}
}

// What is read while everything changes may be of either time, and is never a third thing.
func TestProcessThatNeverStopsChanging(t *testing.T) {
	t.Parallel()
	cgroups := newCgroups(t, "docker-"+id1+".scope", "kubepods/pod"+podUID1+"/"+id2)
	p := start(t, "change", func(cmd *exec.Cmd) { cmd.Args = []string{"12345678", "12345678"} })
	if _, err := fmt.Fprintln(p.stdin, "cgroup", cgroups[0]); err != nil {
		t.Fatal(err)
	}
	p.line(t)
	if _, err := fmt.Fprintln(p.stdin, "forever", strings.Join(cgroups, " ")); err != nil {
		t.Fatal(err)
	}
	p.line(t)

	r := newReader(t, Options{})
	o := origin(t, p.pid)
	seen := map[string]int{}
	for range 500 {
		c := r.read(o)
		if !c.Complete || len(c.Args) != 2 {
			t.Fatalf("got %+v", c)
		}
		switch c.ContainerID + c.Place.PodUID {
		case id1, id2 + podUID1:
		default:
			t.Fatalf("a mixture: %q %+v", c.Cgroup, c.Place)
		}
		for _, text := range append(c.Args, c.Comm) {
			if !isPrintable(text) {
				t.Fatalf("not printable: %q", text)
			}
		}
		seen[c.ContainerID]++
	}
	if len(seen) != 2 {
		t.Errorf("it was seen in %v, so it did not change", seen)
	}
}

// Processes that live for the few milliseconds of their call, each in its container.
func TestThousandShortLivedProcesses(t *testing.T) {
	t.Parallel()
	const processes, containers, atOnce = 1000, 10, 2
	var names [containers]string
	for i := range names {
		names[i] = fmt.Sprintf("kubepods.slice/kubepods-pod%08d_0000_1111_2222_333344445555.slice/cri-containerd-%064d.scope", i, i)
	}
	cgroups := newCgroups(t, names[:]...)
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "job.sh")
	if err := os.WriteFile(script, []byte("echo calling\nread answer\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, Options{})

	var mu sync.Mutex
	var lives []time.Duration
	var all sync.WaitGroup
	for worker := range atOnce {
		all.Go(func() {
			for n := worker; n < processes; n += atOnce {
				c, life, err := shortLife(r, cgroups[n%containers], script, n)
				if err != nil {
					t.Errorf("process %d: %v", n, err)
					return
				}
				wantID, wantPod := fmt.Sprintf("%064d", n%containers), fmt.Sprintf("%08d-0000-1111-2222-333344445555", n%containers)
				if !c.Complete || c.Executable != shell || !slices.Equal(c.Args, []string{"sh", "job.sh", fmt.Sprint(n)}) ||
					c.Program.Script != script || c.ContainerID != wantID || c.ContainerRuntime != "containerd" || c.Place.PodUID != wantPod {
					t.Errorf("process %d: %+v", n, c)
				}
				mu.Lock()
				lives = append(lives, life)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(lives) > 0 {
		slices.Sort(lives)
		t.Logf("%d processes lived %v, half of them, %v at most", len(lives), lives[len(lives)/2], lives[len(lives)-1])
	}
}

// shortLife runs a process that makes a call as soon as it can and ends with the answer. It is named
// in between, as a call waits for its answer.
func shortLife(r *Reader, cgroup, script string, n int) (*Caller, time.Duration, error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, 0, err
	}
	defer dir.Close()
	cmd := exec.Command("/bin/sh", filepath.Base(script), fmt.Sprint(n))
	cmd.Args[0], cmd.Dir = "sh", filepath.Dir(script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	answer, err := cmd.StdinPipe()
	if err != nil {
		return nil, 0, err
	}
	call, err := cmd.StdoutPipe()
	if err != nil {
		return nil, 0, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	defer cmd.Wait() // with both pipes closed it ends in any case
	defer answer.Close()
	if _, err := io.ReadFull(call, make([]byte, len("calling\n"))); err != nil {
		return nil, 0, err
	}
	s, err := processAt(r.proc, cmd.Process.Pid).stat(make([]byte, maxFile))
	if err != nil {
		return nil, 0, err
	}
	pid := uint32(cmd.Process.Pid)
	c := r.read(Origin{PID: pid, TID: pid, PPID: uint32(s.ppid), Started: time.Duration(s.started) * userTick, Comm: s.comm})
	if _, err := answer.Write([]byte("\n")); err != nil {
		return nil, 0, err
	}
	err = cmd.Wait()
	return c, time.Since(begin), err
}
