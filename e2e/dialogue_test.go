package e2e

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"testing"
)

// dialogue is with a process that says a line to each that it is told, until it is told no more.
type dialogue struct {
	cmd  *exec.Cmd
	in   io.Writer
	said *bufio.Scanner
}

func (i *instance) startDialogue(t *testing.T, cmd *exec.Cmd) dialogue {
	t.Helper()
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Host().Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", cmd.Path, err)
		}
	})
	return dialogue{cmd, in, bufio.NewScanner(out)}
}
