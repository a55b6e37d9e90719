package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
)

// held is a client that has a connection to IMDS, and has not asked for anything yet.
type held struct {
	cmd  *exec.Cmd
	in   io.Writer
	said *bufio.Scanner
}

func (i *instance) startHeld(t *testing.T) held {
	t.Helper()
	cmd := exec.Command(debianPython, "clients/held/held.py")
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
			t.Errorf("%s: %v", cmd, err)
		}
	})
	h := held{cmd, in, bufio.NewScanner(out)}
	if !h.said.Scan() || h.said.Text() != "connected" {
		t.Fatalf("the client says %q", h.said.Text())
	}
	return h
}

// ask has the client ask, and returns the status of its answer.
func (h held) ask(t *testing.T) (status int) {
	t.Helper()
	fmt.Fprintln(h.in, "ask")
	h.said.Scan()
	if _, err := fmt.Sscan(h.said.Text(), &status); err != nil {
		t.Fatalf("the client says %q", h.said.Text())
	}
	return status
}
