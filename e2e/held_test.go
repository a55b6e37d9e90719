package e2e

import (
	"fmt"
	"os/exec"
	"testing"
)

// held is a client that has a connection to IMDS, and has not asked for anything yet.
type held struct{ dialogue }

func (i *instance) startHeld(t *testing.T) held {
	t.Helper()
	h := held{i.startDialogue(t, exec.Command(debianPython, "clients/held/held.py"))}
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
