//go:build root

package deploy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

// machine is systemd, in a lab and with the service of this repository.
type machine struct {
	*lab.Lab
	pid int // of systemd
}

// boot starts systemd. At the end of the test it is gone with all that it started.
func boot(t *testing.T) *machine {
	t.Helper()
	l := simulatedInstance(t)
	dir := tempDir(t)
	for name, content := range map[string]string{
		"etc/systemd/system/test.target":         "[Unit]\n",
		"etc/systemd/system/imds-bridge.service": read(t, "systemd/imds-bridge.service"),
		// For the test to read.
		"etc/systemd/system/imds-bridge.service.d/log.conf": "[Service]\nStandardError=append:/run/imds-bridge.log\n",
		"etc/imds-bridge/environment":                       "",
	} {
		file := filepath.Join(dir, "files", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "files/usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(buildContext(t), "bin/imds-bridge"), filepath.Join(dir, "files/usr/bin/imds-bridge")); err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("testdata/systemd.sh")
	if err != nil {
		t.Fatal(err)
	}
	// The cgroup namespace comes last: its root is the cgroup in which it is made.
	systemd := exec.Command("unshare", "--cgroup", script, dir)
	systemd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}
	var out bytes.Buffer
	systemd.Stdout, systemd.Stderr = &out, &out
	if err := l.Host().Start(systemd); err != nil {
		t.Fatal(err)
	}
	m := &machine{l, systemd.Process.Pid}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root/run/imds-bridge.log", m.pid))
			lines := strings.Split(string(log), "\n")
			t.Logf("systemd: %s\nthe end of the bridge's log:\n%s\n%s", &out, strings.Join(lines[max(0, len(lines)-20):], "\n"), m.try("status", "imds-bridge"))
		}
		_ = systemd.Process.Kill()
		_ = systemd.Wait()
	})
	await(t, "systemd", func() bool { return m.try("is-active", "test.target") == "active" })
	return m
}

// try is systemctl; the answer may be an error.
func (m *machine) try(args ...string) string {
	return m.run(append([]string{"systemctl", "--no-pager"}, args...)...)
}

// run runs a command on the machine; what it says may be an error.
func (m *machine) run(args ...string) string {
	enter := []string{"--target", strconv.Itoa(m.pid), "--all", "--root", "--wd=/"}
	out, _ := exec.Command("nsenter", append(enter, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out))
}

// systemctl fails the test when it says anything but what is asked for.
func (m *machine) systemctl(t *testing.T, args ...string) {
	t.Helper()
	if out := m.try(args...); out != "" {
		t.Fatalf("systemctl %s: %s", strings.Join(args, " "), out)
	}
}

func (m *machine) property(name string) string {
	return m.try("show", "--property="+name, "--value", "imds-bridge")
}

func (m *machine) expectProperty(t *testing.T, name, want string) {
	t.Helper()
	if got := m.property(name); got != want {
		t.Errorf("%s=%s, want %s", name, got, want)
	}
}

// TestService runs the unit as it is shipped, hardening included, under a real systemd: a restart loses
// no call, a stop loses none of those that do without the bridge, and a crash is mended.
func TestService(t *testing.T) {
	m := boot(t)
	m.configure(t)
	m.systemctl(t, "start", "imds-bridge")
	m.expectProperty(t, "ActiveState", "active")
	m.expectHardened(t)

	both := m.calls(t, "v1 v2")
	for range 5 {
		before := m.property("MainPID")
		m.systemctl(t, "restart", "imds-bridge")
		if after := m.property("MainPID"); after == before || after == "0" {
			t.Errorf("after a restart process %s is %s", before, after)
		}
		m.expectProperty(t, "NFileDescriptorStore", "0")
	}
	both(t).expectNone(t, "restarts")

	// Nothing of the bridge before is of use to this one.
	m.configure(t, "IMDS_BRIDGE_REDIRECT_MARK=0x77")
	m.systemctl(t, "restart", "imds-bridge")
	m.calls(t, "v1 v2")(t).expectNone(t, "a restart under other terms")
	m.expectProperty(t, "NFileDescriptorStore", "0")
	m.configure(t, "IMDS_BRIDGE_MODE=nonsense")
	v2 := m.calls(t, "v2")
	if out := m.try("restart", "imds-bridge"); out == "" {
		t.Error("a restart with nonsense for a mode succeeds")
	}
	if c := v2(t); c.Failed > 1 { // the one that waited
		t.Errorf("a restart that fails: %d of %d calls failed: %q", c.Failed, c.Calls, c.Errors)
	}
	m.configure(t)
	m.systemctl(t, "restart", "imds-bridge")

	v2 = m.calls(t, "v2")
	m.systemctl(t, "stop", "imds-bridge")
	m.expectProperty(t, "ActiveState", "inactive")
	m.expectProperty(t, "Result", "success")
	v2(t).expectNone(t, "a stop")
	if address, there := m.address(t); there {
		t.Errorf("a stop leaves %s", address)
	}

	m.systemctl(t, "start", "imds-bridge")
	v2 = m.calls(t, "v2")
	m.systemctl(t, "kill", "--signal=SIGKILL", "imds-bridge")
	await(t, "a new process after a crash", func() bool { return m.property("NRestarts") == "1" && m.property("ActiveState") == "active" })
	if c := v2(t); c.Failed > 1 { // the one under way
		t.Errorf("a crash: %d of %d calls failed: %q", c.Failed, c.Calls, c.Errors)
	}
	m.calls(t, "v1 v2")(t).expectNone(t, "the new process")

	m.write(t, "/etc/systemd/system/imds-bridge.service.d/watchdog.conf", "[Service]\nWatchdogSec=3\n")
	m.systemctl(t, "daemon-reload")
	m.systemctl(t, "restart", "imds-bridge")
	v2 = m.calls(t, "v2")
	m.systemctl(t, "kill", "--signal=SIGSTOP", "imds-bridge")
	await(t, "a new process in the place of one that hangs", func() bool { return m.property("NRestarts") == "1" && m.property("ActiveState") == "active" })
	// The one under way, and one that came to it when systemd let it go on for its end.
	if c := v2(t); c.Failed > 2 {
		t.Errorf("a hang: %d of %d calls failed: %q", c.Failed, c.Calls, c.Errors)
	}
	m.calls(t, "v1 v2")(t).expectNone(t, "the process after one that hung")
	m.systemctl(t, "stop", "imds-bridge")

	m.expectFailClosed(t)
}

// write puts a file onto the machine.
func (m *machine) write(t *testing.T, name, content string) {
	t.Helper()
	file := fmt.Sprintf("/proc/%d/root%s", m.pid, name)
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// configure sets the service's variables. The cgroup of this systemd is the root for it alone.
func (m *machine) configure(t *testing.T, more ...string) {
	t.Helper()
	m.write(t, "/etc/imds-bridge/environment", strings.Join(append(more, "IMDS_BRIDGE_REDIRECT_CGROUP=/sys/fs/cgroup"), "\n"))
}

// expectHardened looks at what the kernel says of the service's process.
func (m *machine) expectHardened(t *testing.T) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/proc/%s/status", m.pid, m.property("MainPID")))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	uid, err := strconv.Atoi(strings.Fields(fields["Uid"])[0])
	if err != nil || uid < 61184 || uid > 65519 {
		t.Errorf("user %d, %v: not one of DynamicUser=", uid, err)
	}
	for name, want := range map[string]string{"Seccomp": "2", "NoNewPrivs": "1", "CapAmb": "0000000000000000", "CapInh": "0000000000000000"} {
		if fields[name] != want {
			t.Errorf("%s of the process: %s, want %s", name, fields[name], want)
		}
	}
	var bounds uint64
	for _, bit := range serviceCapabilities(t) {
		bounds |= 1 << bit
	}
	if got, err := strconv.ParseUint(fields["CapBnd"], 16, 64); err != nil || got != bounds {
		t.Errorf("CapBnd of the process: %s, want %x", fields["CapBnd"], bounds)
	}
}

// address tells whether the listener's address is on an interface of the host.
func (m *machine) address(t *testing.T) (address string, there bool) {
	t.Helper()
	address = "169.254.20.254"
	show := exec.Command("ip", "-oneline", "address", "show", "to", address)
	out := new(bytes.Buffer)
	show.Stdout = out
	if err := m.Host().StartOutside(show); err != nil {
		t.Fatal(err)
	}
	if err := show.Wait(); err != nil {
		t.Fatal(err)
	}
	return address, out.Len() > 0
}
