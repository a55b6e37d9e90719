//go:build root

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A script of another user, that a shell script runs, is explained: script, package, parents, libraries, owner by file.
func TestExplainAScriptOfAnotherUser(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "imds-bridge-explain") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := write("report.py", "import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
	job := write("nightly.sh", "#!/bin/sh\n/usr/bin/python3 "+script+" --password=hunter2\necho done\n")
	owners := write("owners.csv", "fact,pattern,owner\nscript,"+dir+"/*,finance\n")

	cmd := exec.Command("/bin/sh", job)
	cmd.Env = []string{"AWS_SECRET_ACCESS_KEY=do-not-show"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		_, _ = io.Copy(io.Discard, stdout)
		_ = cmd.Wait()
	}()
	if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(children))

	began := time.Now()
	code, out, errs := explainFor(t, "--admin.listen=", "--attribution.owner_file="+owners, "--output=json", pid)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
	var x explanation
	if err := json.Unmarshal([]byte(out), &x); err != nil || code != exitOK {
		t.Fatalf("%d %v %s", code, err, errs)
	}
	list := x.Processes[0].Facts
	hasFact(t, list, "user", "nobody (65534), group nogroup (65534)", "/proc/"+pid+"/status, the host's passwd and group")
	hasFact(t, list, "script", script, "its arguments")
	hasFact(t, list, "owner", "finance", "file: script "+script)
	text := map[string]string{}
	for _, f := range list {
		text[f.Name] += f.Value + "\n"
	}
	if !strings.Contains(text["library"], "boto 2.49") || !strings.HasPrefix(text["package"], "python3.") || !strings.HasPrefix(text["ancestors"], fmt.Sprintf("%s (%d) < ", job, cmd.Process.Pid)) {
		t.Errorf("%s", out)
	}
	if strings.Contains(out, "hunter2") || strings.Contains(out, "do-not-show") {
		t.Errorf("a secret is shown:\n%s", out)
	}
}

// Without privileges it shows what can be read, and says what is missing.
func TestExplainWithoutPrivileges(t *testing.T) {
	t.Parallel()
	program := buildDemo(t)
	cmd := exec.Command(program, "explain", "--admin.listen=", fmt.Sprint(os.Getpid()))
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for _, want := range []string{"user             root (0)", "executable       unknown: ", "libraries        unknown: /proc/" + fmt.Sprint(os.Getpid()) + "/exe may not be read: that takes CAP_SYS_PTRACE", "CAP_SYS_PTRACE: without it", "run it as root"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
