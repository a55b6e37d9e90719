package caller

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCaller(t *testing.T) {
	t.Parallel()
	before := time.Now()
	p := start(t, "stay", func(cmd *exec.Cmd) {
		cmd.Args = []string{"odd\nname", "--password", "hunter2", "\xffé", "\x1b[31m"}
	})
	o := origin(t, p.pid)
	c := newReader(t, Options{}).Caller(o)

	if !c.Complete {
		t.Fatal("not complete")
	}
	if want := []string{`odd\nname`, "--password", "***", "\ufffdé", `\x1b[31m`}; !slices.Equal(c.Args, want) {
		t.Errorf("args %q, want %q", c.Args, want)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if c.Executable != self || c.ExecutableDeleted {
		t.Errorf("executable %q, deleted %t; want %q", c.Executable, c.ExecutableDeleted, self)
	}
	if c.Comm != filepath.Base(self) {
		t.Errorf("comm %q, want %q", c.Comm, filepath.Base(self))
	}
	if c.Origin != o {
		t.Errorf("origin %+v, want %+v", c.Origin, o)
	}
	if since := c.Started.Sub(before); since < -time.Second || since > 10*time.Second {
		t.Errorf("started %v, %v after the test", c.Started, since)
	}
	if lines, err := os.ReadFile("/proc/self/cgroup"); err != nil || c.Cgroup != ParseCgroup(string(lines)).Path {
		t.Errorf("cgroup %q, want that of %s (%v)", c.Cgroup, lines, err)
	}
	if len(c.Ancestors) == 0 || c.Ancestors[0] != (Process{PID: os.Getpid(), Comm: filepath.Base(self), Executable: self}) {
		t.Errorf("ancestors %+v, want this test first", c.Ancestors)
	}
}

func TestAncestors(t *testing.T) {
	t.Parallel()
	const depth = 20
	p := start(t, "chain:20", nil)
	c := newReader(t, Options{}).Caller(origin(t, p.pid))

	if len(c.Ancestors) != maxAncestors {
		t.Fatalf("%d ancestors, want %d of %d", len(c.Ancestors), maxAncestors, depth)
	}
	seen := map[int]bool{p.pid: true}
	for _, a := range c.Ancestors {
		if seen[a.PID] || a.Comm == "" || a.Executable == "" {
			t.Errorf("ancestor %+v", a)
		}
		seen[a.PID] = true
	}
	if c.Ancestors[0].PID != int(c.PPID) {
		t.Errorf("first ancestor %d, want the parent %d", c.Ancestors[0].PID, c.PPID)
	}
}

func TestAncestorsEndAtInit(t *testing.T) {
	t.Parallel()
	p := start(t, "stay", nil)
	c := newReader(t, Options{}).Caller(origin(t, p.pid))
	if n := len(c.Ancestors); n < maxAncestors && c.Ancestors[n-1].PID != 1 {
		t.Errorf("last of %+v is not init", c.Ancestors)
	}
}

func TestExecIsAnotherCaller(t *testing.T) {
	t.Parallel()
	p := start(t, "exec", nil)
	r := newReader(t, Options{})
	o := origin(t, p.pid)
	if c := r.Caller(o); !c.Complete || len(c.Args) != 1 {
		t.Fatalf("first program %+v", c)
	}
	if _, err := p.stdin.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	p.line(t) // the second program says its pid, the same

	if now := origin(t, p.pid); now.Started != o.Started {
		t.Fatal("exec changed the start time")
	}
	o.ExecID++
	if c := r.Caller(o); !slices.Equal(c.Args, []string{"second", "program"}) {
		t.Errorf("second program %q", c.Args)
	}
}

func TestCallerThatIsGone(t *testing.T) {
	t.Parallel()
	r := newReader(t, Options{})
	p := start(t, "stay", nil)
	o := origin(t, p.pid)
	o.Comm = "short\nlived"
	if err := p.first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitForZombie(t, p.pid)
	onlyRecorded(t, r.Caller(o), o) // dead, and its pid still taken
	p.stop()
	onlyRecorded(t, r.Caller(o), o)

	if n := r.known.Len(); n != 0 {
		t.Errorf("%d callers that were never read are remembered", n)
	}
}

func waitForZombie(t *testing.T, pid int) {
	t.Helper()
	for range 1000 {
		if s, err := processAt("/proc", pid).stat(make([]byte, maxFile)); err != nil || s.dead {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("child does not die")
}

// onlyRecorded checks that c says what the kernel's record o says, and no more.
func onlyRecorded(t *testing.T, c *Caller, o Origin) {
	t.Helper()
	if c.Complete || c.Origin != o || c.Comm != printable(o.Comm, maxComm) || c.Started.IsZero() {
		t.Errorf("got %+v, want the record %+v", c, o)
	}
	if c.Executable != "" || c.Args != nil || c.Cgroup != "" || c.ContainerID != "" || c.Ancestors != nil || c.User != "" ||
		c.Place != nil || c.Program != (Program{}) || c.Starter != (Starter{}) {
		t.Errorf("a guess: %+v", c)
	}
}

// A record of an earlier process with the pid of a living one, or of another pid namespace.
func TestPidOfAnother(t *testing.T) {
	t.Parallel()
	r := newReader(t, Options{})
	p := start(t, "stay", nil)
	for _, shift := range []time.Duration{-userTick, userTick, -time.Hour} {
		o := origin(t, p.pid)
		o.Started += shift
		o.Comm = "earlier"
		onlyRecorded(t, r.Caller(o), o)
	}
}

func TestRenamed(t *testing.T) {
	t.Parallel()
	p := start(t, "rename:new)(\nname", nil)
	o := origin(t, p.pid)
	if c := newReader(t, Options{}).Caller(o); !c.Complete || c.Comm != `new)(\nname` {
		t.Errorf("comm %q", c.Comm)
	}
	// A thread calls: the process keeps its own name.
	o.TID, o.Comm = o.TID+1, "worker-7"
	if c := newReader(t, Options{}).Caller(o); c.Comm != `new)(\nname` || c.Origin.Comm != "worker-7" {
		t.Errorf("comm %q, of the thread %q", c.Comm, c.Origin.Comm)
	}
}

func TestDeletedExecutable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "short lived")
	copyProgram(t, os.Args[0], path)
	p := start(t, "stay", func(cmd *exec.Cmd) { cmd.Path = path })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c := newReader(t, Options{}).Caller(origin(t, p.pid))
	if c.Executable != path || !c.ExecutableDeleted || !c.Complete {
		t.Errorf("executable %q, deleted %t, want %q", c.Executable, c.ExecutableDeleted, path)
	}
}

// copyProgram has another process make the copy: a child that is forked by another test while this one
// writes has the file open until its exec, and what somebody writes to cannot be run.
func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v, %s", err, out)
	}
}

func TestMegabyteOfArguments(t *testing.T) {
	t.Parallel()
	p := start(t, "stay", func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"big"}, slices.Repeat([]string{strings.Repeat("x", 100<<10)}, 10)...)
	})
	c := newReader(t, Options{}).Caller(origin(t, p.pid))
	if want := []string{"big", strings.Repeat("x", maxArg-len(cutMark)) + cutMark}; !c.Complete || !slices.Equal(c.Args, want) {
		t.Errorf("args %q", c.Args)
	}
}

// startScript runs a shell script in a directory of its own. prepare may change how.
func startScript(t testing.TB, prepare func(cmd *exec.Cmd, script string)) (pid int, script string) {
	t.Helper()
	script = filepath.Join(t.TempDir(), "job.sh")
	if err := os.WriteFile(script, []byte("echo $$\nread answer\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	child := start(t, "", func(cmd *exec.Cmd) {
		cmd.Path, cmd.Args, cmd.Dir, cmd.Env = "/bin/sh", words("sh -e job.sh"), filepath.Dir(script), nil
		if prepare != nil {
			prepare(cmd, script)
		}
	})
	return child.pid, script
}

func TestScript(t *testing.T) {
	t.Parallel()
	pid, script := startScript(t, func(cmd *exec.Cmd, _ string) { cmd.Args = []string{"sh", "-c", "sh ./job.sh; true"} })
	c := named(t, newReader(t, Options{}), origin(t, pid))
	if c.Program.Script != script || len(c.Ancestors) == 0 || c.Ancestors[0].Script != "-c" {
		t.Errorf("runs %+v, below %+v", c.Program, c.Ancestors)
	}
}

func TestScriptOfDeletedInterpreter(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sh")
	copyProgram(t, "/bin/sh", path)
	pid, script := startScript(t, func(cmd *exec.Cmd, _ string) { cmd.Path = path })
	if err := errors.Join(os.Remove(path), os.Remove(script)); err != nil {
		t.Fatal(err)
	}
	c := named(t, newReader(t, Options{}), origin(t, pid))
	if c.Program != (Program{"sh", script}) || c.Executable != path || !c.ExecutableDeleted {
		t.Errorf("got %+v", c)
	}
}

func TestScriptBeforeMegabyteOfArguments(t *testing.T) {
	t.Parallel()
	pid, script := startScript(t, func(cmd *exec.Cmd, _ string) {
		cmd.Args = append(cmd.Args, slices.Repeat([]string{strings.Repeat("x", 100<<10)}, 10)...)
	})
	c := named(t, newReader(t, Options{}), origin(t, pid))
	if c.Program.Script != script || len(c.Args) > maxArgs {
		t.Errorf("got %+v", c)
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	const rest = " S 42 1 1 0 -1 4194560 1 1 0 1 0 2 21 10 20 0 1 0 86468 5124096 904 1 1 1 99 0"
	for _, test := range []struct {
		text string
		want stat
	}{
		{"7 (bash)" + rest, stat{comm: "bash", ppid: 42, started: 86468, stack: 99}},
		{"7 ()) S 1 (" + ")" + rest, stat{comm: ")) S 1 (", ppid: 42, started: 86468, stack: 99}},
		{"7 (a)" + strings.Replace(rest, " S ", " Z ", 1), stat{comm: "a", dead: true, ppid: 42, started: 86468, stack: 99}},
	} {
		if got, err := parseStat([]byte(test.text)); err != nil || got != test.want {
			t.Errorf("%q: got %+v, %v, want %+v", test.text, got, err, test.want)
		}
	}
	for _, text := range []string{"", "7", ")(", "7 (a)", "7 (a) S x" + rest, "7 (a)" + rest[:60]} {
		if got, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
}
