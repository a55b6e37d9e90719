//go:build root

package deploy

import (
	"fmt"
	"os"
	"testing"
)

// TestUpgradeThatCannotBeRunLosesNoCall restarts the service with a program that systemd cannot start: calls
// do not wait for it.
func TestUpgradeThatCannotBeRunLosesNoCall(t *testing.T) {
	m := boot(t)
	m.configure(t)
	program := fmt.Sprintf("/proc/%d/root/usr/bin/imds-bridge", m.pid)
	good, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	install := func(content []byte, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(program+".new", content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(program+".new", mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []struct {
		name    string
		content []byte
		mode    os.FileMode
	}{
		{"cut short", good[:len(good)/2], 0o755},
		// ExecStop= is run by root, and the bridge by a user of its own.
		{"for root alone", good, 0o700},
	} {
		m.systemctl(t, "start", "imds-bridge")
		v2 := m.calls(t, "v2")
		install(bad.content, bad.mode)
		if out := m.try("restart", "imds-bridge"); out == "" {
			t.Errorf("a program %s is started", bad.name)
		}
		m.expectProperty(t, "NFileDescriptorStore", "0")
		v2(t).expectNone(t, "a program "+bad.name)
		install(good, 0o755)
		await(t, "the good program is started", func() bool { return m.property("ActiveState") == "active" })
		m.calls(t, "v1 v2")(t).expectNone(t, "the good program")
		m.systemctl(t, "stop", "imds-bridge")
	}
}
