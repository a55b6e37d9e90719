package caller

import (
	"os"
	"runtime"
	"slices"
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

func TestMemoryIsBounded(t *testing.T) {
	p := start(t, "stay", nil)
	o := origin(t, p.pid)
	const size, perCaller = 2000, 2 << 10
	r := newReader(t, Options{Size: size})

	before := heap()
	for range 3 * size {
		o.ExecID++
		if c := r.Caller(o); !c.Complete {
			t.Fatal("not complete")
		}
	}
	if n := r.known.Len(); n != size {
		t.Errorf("%d callers remembered, want %d", n, size)
	}
	if grown := heap() - before; grown > size*perCaller {
		t.Errorf("%d bytes a caller, want at most %d", grown/size, perCaller)
	} else {
		t.Logf("%d bytes a caller", grown/size)
	}
	runtime.KeepAlive(r)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkKnownCaller(b *testing.B) {
	r := newReader(b, Options{})
	o := origin(b, os.Getpid())
	r.Caller(o)
	b.ReportAllocs()
	for b.Loop() {
		r.Caller(o)
	}
}

// One process whose threads call in turn.
func BenchmarkKnownCallerOtherThread(b *testing.B) {
	r := newReader(b, Options{})
	o := origin(b, os.Getpid())
	r.Caller(o)
	o.TID, o.Comm = o.TID+1, "worker"
	b.ReportAllocs()
	for b.Loop() {
		r.Caller(o)
	}
}

// A caller with 8 ancestors or more, never seen before.
func BenchmarkNewCaller(b *testing.B) {
	p := start(b, "chain:8", nil)
	r := newReader(b, Options{})
	o := origin(b, p.pid)
	b.ReportAllocs()
	for b.Loop() {
		o.ExecID++
		if c := r.Caller(o); !c.Complete || len(c.Ancestors) < 8 {
			b.Fatalf("got %+v", c)
		}
	}
}
