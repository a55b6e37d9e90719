//go:build root

package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestServiceIsVerifiedBySystemd(t *testing.T) {
	t.Parallel()
	// systemd looks whether the program is there.
	unit := strings.Replace(read(t, "systemd/imds-bridge.service"), "=/usr/bin/imds-bridge ", "=/bin/true ", 1)
	file := filepath.Join(t.TempDir(), "imds-bridge.service")
	if err := os.WriteFile(file, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", file).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	// Of a setting that it does not know it only speaks.
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "imds-bridge.service") {
			t.Error(line)
		}
	}
}
