package attribution

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/software"
)

// 10,000 jobs that cron started one after the other, each with a pid, a shell and arguments of its own:
// all that the bridge remembers of a caller is 2 KiB at most.
func TestMemoryOfACaller(t *testing.T) {
	const processes, limit = 10_000, 2 << 10
	proc := newCronHost(t)
	byTeam := rules(t, "env:TEAM unit")
	reader, err := caller.NewReader(caller.Options{Proc: proc.dir, Size: processes, Env: Variables(byTeam)})
	if err != nil {
		t.Fatal(err)
	}
	finder, err := software.New(software.Options{Proc: proc.dir, Images: processes})
	if err != nil {
		t.Fatal(err)
	}
	defer finder.Close()
	a := New(Options{Software: finder, Rules: byTeam, Size: processes})
	first := named(reader, proc.next(t))
	for _, ok := finder.Of(first); !ok; _, ok = finder.Of(first) {
		time.Sleep(time.Millisecond)
	}

	callers := make([]*caller.Caller, processes)
	before := heap()
	for n := range callers {
		o := proc.next(t)
		callers[n] = named(reader, o)
		if c := callers[n]; !c.Complete || len(c.Args) != 9 || len(c.Ancestors) != 4 || c.Ancestors[0].PID != int(o.PPID) || c.Starter.Kind != caller.StartedByCron {
			t.Fatalf("got %+v", c)
		}
		a.Meet(callers[n]) // while its pid is its own
	}
	met := heap()
	for _, c := range callers {
		call := v1(c, "Python-urllib/3.11")
		if got := a.Of(call); got.Software == nil || got.Owner.Name != "cron.service" || got.Advice == nil {
			t.Fatalf("got %+v", got.Who)
		}
	}
	clear(callers) // they are remembered
	called := heap()
	each, more := (called-before)/processes, (called-met)/processes
	t.Logf("%d bytes a caller, of which %d come with its first call", each, more)
	if each > limit {
		t.Errorf("%d bytes a caller, want %d at most", each, limit)
	}
	runtime.KeepAlive(reader)
	runtime.KeepAlive(a)
}

// named is the caller once its files were read: a busy disk can take longer than a call waits.
func named(r *caller.Reader, o caller.Origin) (c *caller.Caller) {
	for range 100 {
		if c = r.Caller(o); c.Complete {
			break
		}
	}
	return c
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// cronHost is a directory in the form of procfs, with one job of cron at a time.
type cronHost struct {
	dir    string
	origin caller.Origin // of the job
}

const cronTick = 10 * time.Millisecond // of the times in /proc/<pid>/stat

func newCronHost(t *testing.T) *cronHost {
	t.Helper()
	h := &cronHost{dir: t.TempDir(), origin: caller.Origin{PID: 200_000, PPID: 100_000, Started: 5 * cronTick, ExecID: 2, CgroupID: 1}}
	python := filepath.Join(h.dir, "python3.11")
	if err := os.WriteFile(python, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	h.put(t, 1, 0, 1, "systemd", "/usr/lib/systemd/systemd", "/sbin/init\x00")
	h.put(t, 500, 1, 2, "cron", "/usr/sbin/cron", "/usr/sbin/cron\x00-f\x00")
	h.put(t, 600, 500, 3, "cron", "/usr/sbin/cron", "/usr/sbin/CRON\x00-f\x00")
	h.put(t, h.origin.PPID, 600, 4, "sh", "/usr/bin/dash", "/bin/sh\x00-c\x00/opt/report/daily.py\x00")
	h.put(t, h.origin.PID, h.origin.PPID, 5, "python3", python, h.commandLine())
	return h
}

func (h *cronHost) file(pid uint32, name string) string {
	return filepath.Join(h.dir, fmt.Sprint(pid), name)
}

func (h *cronHost) put(t *testing.T, pid, ppid uint32, ticks int, comm, exe, args string) {
	t.Helper()
	if err := os.Mkdir(h.file(pid, ""), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"stat":    stat(pid, ppid, ticks, comm),
		"cmdline": args,
		"cgroup":  "0::/system.slice/cron.service\n",
		"status":  "NSpid:\t1\n",
		"environ": "PATH=/usr/bin:/bin\x00HOME=/root\x00",
	} {
		if err := os.WriteFile(h.file(pid, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"exe": exe, "root": h.dir, "cwd": h.dir} {
		if err := os.Symlink(to, h.file(pid, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func stat(pid, ppid uint32, ticks int, comm string) string {
	return fmt.Sprintf("%d (%s) S %d 1 1 0 -1 4194560 1 1 0 1 0 2 21 10 20 0 1 0 %d 5124096 904 1 1 1 140737445783264 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 1 1 1 1 1 1 1 0\n",
		pid, comm, ppid, ticks)
}

// next ends the job and starts another, which makes a call.
func (h *cronHost) next(t *testing.T) caller.Origin {
	t.Helper()
	last := h.origin
	h.origin.PID++
	h.origin.PPID++
	h.origin.Comm = strings.Clone("python3") // from the kernel's record
	for from, to := range map[uint32]uint32{last.PID: h.origin.PID, last.PPID: h.origin.PPID} {
		if err := os.Rename(h.file(from, ""), h.file(to, "")); err != nil {
			t.Fatal(err)
		}
	}
	h.overwrite(t, "stat", stat(h.origin.PID, h.origin.PPID, 5, "python3"))
	h.overwrite(t, "cmdline", h.commandLine())
	return h.origin
}

// commandLine is as long for each job.
func (h *cronHost) commandLine() string {
	args := []string{
		"/usr/bin/python3", "-u", "/opt/report/daily.py", "--region", "eu-west-1", "--bucket", "reports-of-something",
		"--output", fmt.Sprintf("/var/lib/reports/%d.json", h.origin.PID),
	}
	return strings.Join(args, "\x00") + "\x00"
}

// overwrite writes over a file of the job with one as long, which spares the disk the most.
func (h *cronHost) overwrite(t *testing.T, name, text string) {
	t.Helper()
	file, err := os.OpenFile(h.file(h.origin.PID, name), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
}
