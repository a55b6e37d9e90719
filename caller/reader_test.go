package caller

import (
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const passwd = "root:x:0:0:root:/root:/bin/sh\n# a comment\nweb:x:1000:1000::/:/bin/sh\nlater:x:1000:1::/:\nbroken:x\n"

func newFake(t testing.TB) (fakeProc, *Reader) {
	t.Helper()
	proc := fakeProc(t.TempDir())
	proc.put(t, fakeProcess{pid: 1, ticks: 0, comm: "systemd", exe: "/sbin/init"})
	proc.write(t, 1, "../1/root/etc/passwd", passwd)
	proc.write(t, 1, "../1/root/etc/group", "web:x:1000:a,b\n")
	return proc, newReader(t, Options{Proc: string(proc)})
}

func TestNewReaderRefuses(t *testing.T) {
	t.Parallel()
	for _, opts := range []Options{{Proc: "/nowhere"}, {Proc: "/proc/self/stat"}, {Size: -1}} {
		if _, err := NewReader(opts); err == nil {
			t.Errorf("%+v: no error", opts)
		}
	}
}

func TestReadOnce(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app", exe: "/app"}
	proc.put(t, p)
	first := r.Caller(p.origin())
	if err := os.RemoveAll(string(proc)); err != nil {
		t.Fatal(err)
	}

	if again := r.Caller(p.origin()); again != first || !again.Complete {
		t.Errorf("read again: %+v", again)
	}
	thread := p.origin()
	thread.TID, thread.Comm, thread.UID, thread.NetNS = 11, "worker", 0, 7
	c := r.Caller(thread)
	if c.Origin != thread || c.User != "root" || c.Executable != "/app" || c.Comm != "app" {
		t.Errorf("another thread of the same: %+v", c)
	}
	if first.UID != 1000 || first.User != "web" {
		t.Errorf("the shared caller was changed: %+v", first)
	}
}

func TestConcurrentFirstCallsReadOnce(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app", exe: "/app"}
	proc.put(t, p)
	var callers [64]*Caller
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { callers[i] = r.Caller(p.origin()) })
	}
	wg.Wait()
	for _, c := range callers {
		if c != callers[0] || !c.Complete {
			t.Fatalf("got %+v and %+v", callers[0], c)
		}
	}
}

func TestIncompleteIsNotRemembered(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app", exe: "/app"}
	onlyRecorded(t, r.Caller(p.origin()), p.origin())
	proc.put(t, p)
	if c := r.Caller(p.origin()); !c.Complete || c.Executable != "/app" {
		t.Errorf("got %+v", c)
	}
}

func TestPidReuse(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	old := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "old", exe: "/old"}
	proc.put(t, old)
	r.Caller(old.origin())
	reused := fakeProcess{pid: 10, ppid: 1, ticks: 200, comm: "new", exe: "/new"}
	proc.put(t, reused)

	if c := r.Caller(reused.origin()); c.Executable != "/new" {
		t.Errorf("the new process is shown as %+v", c)
	}
	if c := r.Caller(old.origin()); c.Executable != "/old" {
		t.Errorf("the old process is shown as %+v", c)
	}
	// An ancestor that started after its child is not the one that started it.
	child := fakeProcess{pid: 11, ppid: 10, ticks: 150, comm: "child", exe: "/child"}
	proc.put(t, child)
	if c := r.Caller(child.origin()); !c.Complete || len(c.Ancestors) != 0 {
		t.Errorf("ancestors %+v", c.Ancestors)
	}
}

func TestAncestorsInCircles(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	proc.put(t, fakeProcess{pid: 10, ppid: 11, ticks: 100, comm: "a"})
	proc.put(t, fakeProcess{pid: 11, ppid: 10, ticks: 100, comm: "b"})
	c := r.Caller(fakeProcess{pid: 10, ppid: 11, ticks: 100, comm: "a"}.origin())
	if len(c.Ancestors) != maxAncestors {
		t.Errorf("%d ancestors", len(c.Ancestors))
	}
}

func TestKernelThread(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	p := fakeProcess{pid: 10, ppid: 2, ticks: 100, comm: "kworker/0:1"}
	proc.put(t, p)
	if c := r.Caller(p.origin()); !c.Complete || c.Executable != "" || c.Comm != "kworker/0:1" {
		t.Errorf("got %+v", c)
	}
}

func TestContainerHasNoHostNames(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app", cgroup: "0::/system.slice/docker-" + id1 + ".scope\n"}
	proc.put(t, p)
	c := r.Caller(p.origin())
	if c.ContainerID != id1 || c.ContainerRuntime != "docker" || c.User != "" || c.Group != "" {
		t.Errorf("got %+v", c)
	}
	o := p.origin()
	o.UID = 0
	if c := r.Caller(o); c.User != "" {
		t.Errorf("root in a container is shown as the host's %q", c.User)
	}
	// It left the container's cgroup, as a runtime's child enters it: the kernel's id tells.
	p.cgroup = "0::/system.slice/app.service\n"
	proc.put(t, p)
	o = p.origin()
	o.CgroupID++
	if c := r.Caller(o); c.ContainerID != "" || c.User != "web" || c.Group != "web" {
		t.Errorf("got %+v", c)
	}
}

func TestPodHasNoHostNames(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app", cgroup: "0::/kubepods/burstable/pod" + podUID1 + "/web\n"}
	proc.put(t, p)
	if c := r.Caller(p.origin()); c.ContainerID != "" || c.Place.PodUID != podUID1 || c.User != "" || c.Group != "" {
		t.Errorf("got %+v", c)
	}
}

func TestPlaceIsShared(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	var places [3]*Place
	for i, cgroup := range []string{"0::/system.slice/a.service\n", "9:name=systemd:/system.slice/a.service\n0::/\n", "0::/system.slice/b.service\n"} {
		p := fakeProcess{pid: 10 + i, ppid: 1, ticks: 100, comm: "app", cgroup: cgroup}
		proc.put(t, p)
		places[i] = r.Caller(p.origin()).Place
	}
	if places[0] != places[1] || places[2].Unit != "b.service" {
		t.Errorf("got %p %p %+v", places[0], places[1], places[2])
	}
	if c := r.Caller(fakeProcess{pid: 10, ticks: 100}.origin()); c.Place != places[0] {
		t.Error("the place of another process was changed")
	}
}

// A cgroup file that is cut may end in the midst of a path, which is then that of another place.
func TestHugeCgroupFile(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	deep := strings.Repeat("/"+strings.Repeat("x", 255), 15)
	p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app",
		cgroup: "4:memory:" + deep + "\n3:pids:" + deep + "\n0::/docker/" + id1 + deep + "/docker/" + id2 + "\n"}
	proc.put(t, p)
	if c := r.Caller(p.origin()); !c.Complete || c.ContainerID != "" || len(c.Cgroup) > maxCgroup {
		t.Errorf("got %+v", c)
	}
}

// runc becomes the container's program by exec.
func TestRuntimeInitIsNotRemembered(t *testing.T) {
	t.Parallel()
	for _, executable := range []string{"/", "/memfd:runc_cloned:/proc/self/exe", "/usr/sbin/runc"} {
		proc, r := newFake(t)
		cgroup := "0::/system.slice/docker-" + id1 + ".scope\n"
		p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "runc:[2:INIT]", exe: executable, args: words("runc init"), cgroup: cgroup}
		proc.put(t, p)
		if c := r.Caller(p.origin()); !c.Complete || !c.Starting || c.ContainerID != id1 {
			t.Errorf("got %+v", c)
		}
		o := p.origin()
		p = fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app", exe: "/app", cgroup: cgroup}
		proc.put(t, p)
		if c := r.Caller(o); c.Starting || c.Executable != "/app" {
			t.Errorf("remembered: %+v", c)
		}
	}
	proc, r := newFake(t)
	p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "runc:[2:INIT]", exe: "/app", args: words("runc init")}
	proc.put(t, p)
	if c := r.Caller(p.origin()); c.Starting {
		t.Errorf("a program that only calls itself so: %+v", c)
	}
}

func TestStarterOfContainer(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	proc.put(t, fakeProcess{pid: 2, ppid: 1, ticks: 1, comm: "containerd-shim", exe: "/usr/bin/containerd-shim-runc-v2"})
	proc.put(t, fakeProcess{pid: 3, ppid: 2, ticks: 2, comm: "run.sh", exe: "/bin/busybox", args: words("sh ./run.sh"), cwd: "/app", inner: 1})
	cgroup := "0::/system.slice/docker-" + id1 + ".scope\n"
	for i, test := range []struct {
		ppid, inner int
		want        Starter
	}{
		{3, 0, Starter{StartedByEntrypoint, "/app/run.sh", 3}},
		{2, 7, Starter{StartedByRuntime, "/usr/bin/curl", 11}},
		{2, 0, Starter{StartedByRuntime, "/usr/bin/curl", 12}},
		{2, 1, Starter{StartedByEntrypoint, "/usr/bin/curl", 13}},
	} {
		p := fakeProcess{pid: 10 + i, ppid: test.ppid, ticks: 100, comm: "curl", exe: "/usr/bin/curl", cgroup: cgroup, inner: test.inner}
		proc.put(t, p)
		if c := r.Caller(p.origin()); c.Starter != test.want {
			t.Errorf("got %+v, want %+v", c.Starter, test.want)
		}
	}
}

func TestTimeNamespace(t *testing.T) {
	t.Parallel()
	proc := fakeProc(t.TempDir())
	p := fakeProcess{pid: 10, ticks: 100, comm: "app"}
	proc.put(t, p)
	if err := os.Mkdir(string(proc)+"/self", 0o755); err != nil {
		t.Fatal(err)
	}
	offsets := "monotonic           5         0\nboottime          -10 500000000\n"
	if err := os.WriteFile(string(proc)+"/self/timens_offsets", []byte(offsets), 0o644); err != nil {
		t.Fatal(err)
	}
	o := p.origin()
	o.Started += 9500 * time.Millisecond
	if c := newReader(t, Options{Proc: string(proc)}).Caller(o); !c.Complete {
		t.Errorf("not found: %+v", c)
	}
}

// A process whose memory map is locked lets readers of its command line hang.
func TestSlowProcDelaysLittle(t *testing.T) {
	t.Parallel()
	proc, r := newFake(t)
	p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app", exe: "/app"}
	proc.put(t, p)
	pipe := proc.path(10, "cmdline")
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil { // opening it waits for a writer
		t.Fatal(err)
	}
	begin := time.Now()
	onlyRecorded(t, r.Caller(p.origin()), p.origin())
	if waited := time.Since(begin); waited < patience || waited > 20*patience {
		t.Errorf("waited %v", waited)
	}

	writer, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writer.WriteString("app\x00-v\x00"); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if c := r.Caller(p.origin()); !c.Complete || !slices.Equal(c.Args, []string{"app", "-v"}) {
		t.Errorf("the late answer is lost: %+v", c)
	}
}

func TestStaleIsReadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		proc, r := newFake(t)
		proc.put(t, fakeProcess{pid: 9, ppid: 1, ticks: 90, comm: "sh", exe: "/bin/sh"})
		p := fakeProcess{pid: 10, ppid: 9, ticks: 100, comm: "app", exe: "/app"}
		proc.put(t, p)
		first := r.Caller(p.origin())

		proc.put(t, fakeProcess{pid: 9, ppid: 1, ticks: 90, comm: "java", exe: "/bin/java"}) // by exec
		proc.write(t, 1, "../1/root/etc/passwd", "other:x:1000:1000:\n")
		if err := os.Chtimes(string(proc)+"/1/root/etc/passwd", time.Time{}, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(refreshAfter)
		if c := r.Caller(p.origin()); c != first {
			t.Errorf("read again too soon: %+v", c)
		}
		time.Sleep(time.Second)
		if c := r.Caller(p.origin()); c != first {
			t.Error("waited for the second reading")
		}
		synctest.Wait()
		c := r.Caller(p.origin())
		if c.Ancestors[0].Comm != "java" || c.User != "other" {
			t.Errorf("still shown as %+v", c)
		}
		if first.Ancestors[0].Comm != "sh" {
			t.Error("the shared caller was changed")
		}

		if err := os.RemoveAll(string(proc)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * refreshAfter)
		r.Caller(p.origin())
		synctest.Wait()
		if again := r.Caller(p.origin()); again != c {
			t.Errorf("what was known is lost: %+v", again)
		}
	})
}

// named is the complete caller of o. A busy machine may have one wait longer than a call would.
func named(t testing.TB, r *Reader, o Origin) *Caller {
	t.Helper()
	for range 100 {
		if c := r.Caller(o); c.Complete {
			return c
		}
	}
	t.Fatalf("never complete: %+v", r.Caller(o))
	return nil
}
