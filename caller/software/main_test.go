package software

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/leaktest"
)

// roleVariable makes a process of this test binary look at the process whose pid it holds, and print
// what it found.
const roleVariable = "SOFTWARE_TEST_PID"

func TestMain(m *testing.M) {
	if pid, err := strconv.Atoi(os.Getenv(roleVariable)); err == nil {
		if err := printSoftware(pid); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	leaktest.Main(m)
}

func printSoftware(pid int) error {
	c, err := readCaller(pid)
	if err != nil {
		return err
	}
	f, err := New(Options{})
	if err != nil {
		return err
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := f.Look(ctx, c)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// run starts a program that ends with the test. What it prints before the test goes on must begin
// with ready, if that is not "".
func run(t testing.TB, cmd *exec.Cmd, ready string) *caller.Caller {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	said := make([]byte, len(ready))
	if _, err := io.ReadFull(stdout, said); err != nil || string(said) != ready {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("%v said %q, %v, want %q; standard error:\n%s", cmd.Args, said, err, ready, stderr.String())
	}
	return callerOf(t, cmd.Process.Pid)
}

// callerOf is the process as the bridge's reader of callers names it.
func callerOf(t testing.TB, pid int) *caller.Caller {
	t.Helper()
	c, err := readCaller(pid)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func readCaller(pid int) (*caller.Caller, error) {
	r, err := caller.NewReader(caller.Options{})
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil, err
	}
	ticks, err := strconv.ParseUint(strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))[20], 10, 64)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat("/proc/" + strconv.Itoa(pid))
	if err != nil {
		return nil, err
	}
	for range 100 { // a reader of callers waits 100 ms for /proc, and then goes without
		c := r.Caller(caller.Origin{
			PID: uint32(pid), TID: uint32(pid), UID: info.Sys().(*syscall.Stat_t).Uid, ExecID: 1,
			Started: time.Duration(ticks)*userTick - bootOffset("/proc") + userTick/2,
		})
		if c.Complete {
			return c, nil
		}
	}
	return nil, fmt.Errorf("process %d is not known", pid)
}

func newFinder(t testing.TB, o Options) *Finder {
	t.Helper()
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// lookAt looks at a process with a Finder of its own.
func lookAt(t testing.TB, c *caller.Caller) *Software { return lookFor(t, c, nil) }

func lookFor(t testing.TB, c *caller.Caller, libraries map[string][]string) *Software {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := newFinder(t, Options{Libraries: libraries}).Look(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// stub starts a program of that name in the directory bin of root. It is cat, which is no Go program:
// it prints its script, and then waits.
func stub(t testing.TB, root, name, script string) *caller.Caller {
	t.Helper()
	program := filepath.Join(root, "bin", name)
	install(t, "/bin/cat", program)
	write(t, script, "ready")
	cmd := exec.Command(program, script, "-")
	cmd.Dir = filepath.Dir(script)
	return run(t, cmd, "ready")
}

// install copies a program. Another process does, for while this one has a file open to write, any child that
// it starts meanwhile has it too, and the program cannot be run.
func install(t testing.TB, program, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "--remove-destination", program, name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// tempDir is a directory whose path has no links.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// check compares libraries, in any order.
func check(t testing.TB, s *Software, want ...Library) {
	t.Helper()
	got := slices.Clone(s.Libraries)
	byText := func(a, b Library) int { return strings.Compare(a.Name+a.Version+a.Path, b.Name+b.Version+b.Path) }
	slices.SortFunc(got, byText)
	slices.SortFunc(want, byText)
	if !slices.Equal(got, want) {
		t.Errorf("libraries\n%+v\nwant\n%+v\nmissing: %s", got, want, s.Missing)
	}
}
