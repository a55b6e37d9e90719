package e2e

import (
	"strings"
	"syscall"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestMissingPrivilegesAreNamed(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	cmd := command(t, "run")
	cmd.Env = []string{"GOCOVERDIR=" + t.TempDir()} // writable or not, it is not the others'
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	got := finish(t, i.Host().Start, cmd)
	if got.ProcessState.ExitCode() != 1 {
		t.Errorf("%s, want exit code 1", got.ProcessState)
	}
	for _, want := range []string{"as root", "CAP_NET_ADMIN", "CAP_BPF"} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("standard error does not say %s: %s", want, got.stderr)
		}
	}
}
