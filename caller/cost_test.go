package caller

import (
	"fmt"
	"os"
	"runtime"
	"testing"
)

// 10,000 callers in 500 containers, each a script with arguments and with a parent of its own.
func TestMemoryIsBounded(t *testing.T) {
	const size, containers, perCaller = 10000, 500, 1280
	proc, _ := newFake(t)
	r := newReader(t, Options{Proc: string(proc), Size: size})
	proc.put(t, fakeProcess{pid: 2, ppid: 1, ticks: 1, comm: "containerd-shim", exe: "/usr/bin/containerd-shim-runc-v2"})
	proc.put(t, fakeProcess{pid: 3, ppid: 2, ticks: 2, comm: "entrypoint.sh", exe: "/usr/bin/bash", args: words("/bin/bash /usr/local/bin/entrypoint.sh --verbose"), inner: 1})
	proc.put(t, fakeProcess{pid: 4, ppid: 3, ticks: 3, comm: "job.sh", exe: "/usr/bin/bash"})
	p := fakeProcess{pid: 5, ppid: 4, ticks: 4, comm: "python3", exe: "/usr/bin/python3.11", cwd: "/srv/app"}
	proc.put(t, p)
	o := p.origin()

	before := heap()
	for i := range size + size/10 {
		// each as long as the one before, which spares the file system the most
		cgroup := fmt.Sprintf("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod%08x_0000_1111_2222_333344445555.slice/cri-containerd-%064x.scope\n", i%containers, i%containers)
		proc.overwrite(t, 5, "cgroup", cgroup)
		proc.overwrite(t, 5, "cmdline", string(commandLine("python3", "-u", fmt.Sprintf("job_%05d.py", i), "--region", "eu-west-1",
			"--bucket", fmt.Sprintf("s3://reports-of-something/%05d/daily", i), "--verbose", "--output", fmt.Sprintf("/var/lib/reports/%05d.json", i))))
		proc.overwrite(t, 4, "cmdline", string(commandLine("/bin/bash", fmt.Sprintf("/srv/app/jobs/run-%05d.sh", i))))
		o.ExecID++
		if c := named(t, r, o); c.Program.Script != fmt.Sprintf("/srv/app/job_%05d.py", i) || c.Starter.Kind != StartedByEntrypoint {
			t.Fatalf("got %+v", c)
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
		if c := named(b, r, o); len(c.Ancestors) < 8 {
			b.Fatalf("got %+v", c)
		}
	}
}

// A script in a shell, with what started it, never seen before.
func BenchmarkNewScript(b *testing.B) {
	pid, script := startScript(b, nil)
	r := newReader(b, Options{})
	o := origin(b, pid)
	b.ReportAllocs()
	for b.Loop() {
		o.ExecID++
		if c := named(b, r, o); c.Program.Script != script {
			b.Fatalf("got %+v", c)
		}
	}
}
