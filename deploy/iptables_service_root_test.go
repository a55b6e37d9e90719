//go:build root

package deploy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestServiceByRules runs the unit for old hosts under a real systemd: its bridge serves calls, is started
// again after a crash, and leaves no rules behind.
func TestServiceByRules(t *testing.T) {
	m := boot(t)
	m.configure(t)
	// With a log for the test to read.
	m.write(t, "/etc/systemd/system/"+rulesUnit, read(t, "systemd/"+rulesUnit)+"\n[Service]\nStandardError=append:/run/imds-bridge.log\n")
	m.systemctl(t, "daemon-reload")
	m.systemctl(t, "start", rulesUnit)
	if rules := m.rules(t); rules == "" {
		t.Error("a bridge that is started has no rules")
	}
	expectBounds(t, m)

	both := m.calls(t, "v1 v2")
	both(t).expectNone(t, "a bridge by rules")

	v2 := m.calls(t, "v2")
	m.systemctl(t, "kill", "--signal=SIGKILL", "--kill-who=main", rulesUnit)
	await(t, "a new process after a crash", func() bool {
		return m.propertyOf(rulesUnit, "NRestarts") == "1" && m.propertyOf(rulesUnit, "ActiveState") == "active"
	})
	if c := v2(t); c.Failed > 1 { // the one under way
		t.Errorf("a crash: %d of %d calls failed: %q", c.Failed, c.Calls, c.Errors)
	}
	m.calls(t, "v1 v2")(t).expectNone(t, "the new process")

	v2 = m.calls(t, "v2")
	m.systemctl(t, "stop", rulesUnit)
	v2(t).expectNone(t, "a stop")
	if result := m.propertyOf(rulesUnit, "Result"); result != "success" {
		t.Errorf("the result of a stop is %s", result)
	}
	m.expectNothingLeft(t, "a stop")

	// Nobody is left to remove anything but ExecStopPost=.
	m.systemctl(t, "start", rulesUnit)
	m.systemctl(t, "kill", "--signal=SIGKILL", rulesUnit)
	await(t, "a new process after a crash of all", func() bool {
		return m.propertyOf(rulesUnit, "NRestarts") == "1" && m.propertyOf(rulesUnit, "ActiveState") == "active"
	})
	if rules := m.rules(t); strings.Count(rules, "-N IMDS-BRIDGE") != 2 { // IPv4 and IPv6
		t.Errorf("after a crash of bridge and guard there are rules\n%s", rules)
	}
	m.systemctl(t, "stop", rulesUnit)
	m.expectNothingLeft(t, "a crash and a stop")
}

func (m *machine) propertyOf(unit, name string) string {
	return m.try("show", "--property="+name, "--value", unit)
}

func (m *machine) expectNothingLeft(t *testing.T, by string) {
	t.Helper()
	if rules := m.rules(t); rules != "" {
		t.Errorf("%s leaves rules:\n%s", by, rules)
	}
	if address, there := m.address(t); there {
		t.Errorf("%s leaves %s", by, address)
	}
}

// rules are the lines of the host's rules that name the bridge.
func (m *machine) rules(t *testing.T) (found string) {
	t.Helper()
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, table := range []string{"nat", "filter"} {
			list := exec.Command(program, "--wait", "-t", table, "-S")
			var out bytes.Buffer
			list.Stdout, list.Stderr = &out, os.Stderr
			if err := m.Host().StartOutside(list); err != nil {
				t.Fatal(err)
			}
			if err := list.Wait(); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				if strings.Contains(strings.ToLower(line), "imds-bridge") {
					found += program + " -t " + table + " " + line
				}
			}
		}
	}
	return found
}

// expectBounds looks at what capabilities the service's process can have: those of the unit.
func expectBounds(t *testing.T, m *machine) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/proc/%s/status", m.pid, m.propertyOf(rulesUnit, "MainPID")))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "\nCapBnd:")
	line, _, _ := strings.Cut(after, "\n")
	got, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	var want uint64
	for _, name := range serviceSetting(t, rulesUnit, "CapabilityBoundingSet") {
		want |= 1 << capabilityBit(t, name)
	}
	if err != nil || got != want {
		t.Errorf("CapBnd of the process: %s, want %x", line, want)
	}
}
