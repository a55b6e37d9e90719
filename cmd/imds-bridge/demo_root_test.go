//go:build root

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
)

// buildDemo builds this program: the demo runs itself as the bridge, which a test binary is not.
func buildDemo(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "imds-bridge-demo") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "imds-bridge")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return program
}

func TestDemoTwiceAtOnceTellsWhatItMeasured(t *testing.T) {
	program := buildDemo(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			cmd := exec.Command(program, "demo", "--output", "json")
			start := time.Now()
			out, err := cmd.Output()
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			if err != nil {
				t.Errorf("%v: %s", err, stderrOf(err))
				return
			}
			checkDemo(t, cmd.Process.Pid, out)
			expectNothingLeft(t, cmd.Process.Pid)
		})
	}
	wg.Wait()
}

func checkDemo(t *testing.T, pid int, out []byte) {
	t.Helper()
	var r demoResult
	if err := json.Unmarshal(out, &r); err != nil {
		t.Errorf("%v in %s", err, out)
		return
	}
	curl, _ := exec.LookPath("curl")
	curl, _ = filepath.EvalSymlinks(curl)
	if r.Redirector != "ebpf" || r.Caller.Exe != curl || r.Caller.Comm != "curl" || r.Caller.UID != 0 || r.Caller.PID <= 0 {
		t.Errorf("redirector %q, caller %+v", r.Redirector, r.Caller)
	}
	if len(r.Caller.Ancestors) == 0 || r.Caller.Ancestors[0].PID != pid {
		t.Errorf("ancestors %+v, want the demo %d first", r.Caller.Ancestors, pid)
	}
	if len(r.Container.ID) != 64 || !strings.Contains(r.Container.Upgraded.Body, strings.TrimSpace(r.Bridged.Body)) {
		t.Errorf("container %+v", r.Container)
	}
	kinds := map[string]int{}
	for _, s := range r.Trace.Spans {
		kinds[s.Kind]++
		if s.DurationUS <= 0 {
			t.Errorf("span %+v takes no time", s)
		}
	}
	if kinds["server"] != 1 || kinds["client"] < 1 {
		t.Errorf("spans %+v", r.Trace.Spans)
	}
}

func TestDemoBrokenOffLeavesNothing(t *testing.T) {
	program := buildDemo(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		cmd := startDemo(t, program)
		_ = cmd.Process.Signal(sig)
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitFailed {
			t.Errorf("%s: %v", sig, err)
		}
		expectNothingLeft(t, cmd.Process.Pid)
	}
}

// What stays of a demo that was killed is an empty cgroup, until the next one.
func TestDemoKilledLeavesNoProcess(t *testing.T) {
	cmd := startDemo(t, buildDemo(t))
	scratch := scratchOf(cmd.Process.Pid)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for deadline := time.Now().Add(2 * time.Second); procsIn(scratch) != ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still running: %s", procsIn(scratch))
		}
	}
	next, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	expectNothingLeft(t, cmd.Process.Pid)
}

func TestDemoTellsOrdinaryUsersWhatToDo(t *testing.T) {
	cmd := exec.Command(buildDemo(t), "demo")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	_, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(stderrOf(err), "sudo") {
		t.Errorf("%v: %s", err, stderrOf(err))
	}
}

func TestDemoWithoutCurlSaysSo(t *testing.T) {
	cmd := exec.Command(buildDemo(t), "demo")
	cmd.Env = []string{"PATH=/nonexistent"}
	_, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(stderrOf(err), "install curl") {
		t.Errorf("%v: %s", err, stderrOf(err))
	}
}

// startDemo returns when the demo has started its bridge.
func startDemo(t *testing.T, program string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program, "demo")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if procsIn(scratchOf(cmd.Process.Pid)) != "" {
			return cmd
		}
		time.Sleep(time.Millisecond)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	t.Fatal("the demo has started nothing")
	return nil
}

// scratchOf finds the scratch cgroup of a demo, or "".
func scratchOf(pid int) string {
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if dirs, _ := filepath.Glob(fmt.Sprintf("%s/imds-bridge-lab-%d-*", mount, pid)); len(dirs) > 0 {
			return dirs[0]
		}
	}
	return ""
}

// procsIn lists the processes in the workload half of a scratch cgroup.
func procsIn(scratch string) string {
	procs, _ := os.ReadFile(filepath.Join(scratch, "workload", "cgroup.procs"))
	return string(procs)
}

func expectNothingLeft(t *testing.T, pid int) {
	t.Helper()
	if scratch := scratchOf(pid); scratch != "" {
		t.Errorf("left %s", scratch)
	}
}

func stderrOf(err error) string {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}
