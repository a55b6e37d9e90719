//go:build root

package lab

import (
	"os/exec"
	"testing"
)

func TestKillEachEndsProcessesBelow(t *testing.T) {
	t.Parallel()
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command("sleep", "1000")
	if err := l.Host().Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := killEach(l.scratch.dir); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("process ended with %v", err)
	}
}
