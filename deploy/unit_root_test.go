//go:build root

package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestServicesAreVerifiedBySystemd(t *testing.T) {
	t.Parallel()
	for _, name := range []string{hookUnit, rulesUnit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// systemd looks whether the program is there.
			unit := strings.Replace(read(t, "systemd/"+name), "=/usr/bin/imds-bridge ", "=/bin/true ", 1)
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, []byte(unit), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", file).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			// Of a setting that it does not know it only speaks.
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, name) {
					t.Error(line)
				}
			}
		})
	}
}

// The service runs as a user of its own, with the capabilities of the unit alone.
func TestServiceNeedsNoRoot(t *testing.T) {
	l := simulatedInstance(t)
	bridge := exec.Command(filepath.Join(buildContext(t), "bin/imds-bridge"), "run", "--redirect.cgroup="+l.Cgroup())
	if !l.HasIPv6() {
		bridge.Args = append(bridge.Args, "--redirect.listen6=")
	}
	const nobody = 65534
	bridge.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: nobody, Gid: nobody},
		AmbientCaps: serviceCapabilities(t),
	}
	var log bytes.Buffer
	bridge.Stdout, bridge.Stderr = &log, &log
	if err := l.Host().Start(bridge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = bridge.Process.Signal(syscall.SIGTERM)
		if err := bridge.Wait(); err != nil || t.Failed() {
			t.Errorf("bridge: %v\n%s", err, &log)
		}
	})
	awaitReady(t, l)
	expectStatus(t, l, "200")
}

func serviceCapabilities(t *testing.T) []uintptr {
	t.Helper()
	var capabilities []uintptr
	for _, name := range serviceSetting(t, hookUnit, "AmbientCapabilities") {
		capabilities = append(capabilities, capabilityBit(t, name))
	}
	return capabilities
}

func capabilityBit(t *testing.T, name string) uintptr {
	t.Helper()
	bit, ok := map[string]uintptr{
		"CAP_BPF":             unix.CAP_BPF,
		"CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
		"CAP_NET_ADMIN":       unix.CAP_NET_ADMIN,
		"CAP_NET_RAW":         unix.CAP_NET_RAW,
		"CAP_PERFMON":         unix.CAP_PERFMON,
		"CAP_SYS_PTRACE":      unix.CAP_SYS_PTRACE,
	}[name]
	if !ok {
		t.Fatalf("a unit has %s, which the test does not know", name)
	}
	return bit
}
