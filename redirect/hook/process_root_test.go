//go:build root

package hook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
)

// process is a child of the test: this binary in a role.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *os.File
	json *json.Decoder
}

// start lets a process make calls from a namespace, one after the other.
func start(t *testing.T, in *lab.Namespace, calls []call, change ...func(*exec.Cmd)) *process {
	t.Helper()
	return startRole(t, in.Start, "client", calls, change...)
}

// startRole starts this binary in a role, with its task on standard input.
func startRole(t *testing.T, start func(*exec.Cmd) error, role string, task any, change ...func(*exec.Cmd)) *process {
	t.Helper()
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	// Not by its path, which other users cannot reach.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role, taskVariable+"="+string(text),
		"GORACE=atexit_sleep_ms=0") // or the race detector keeps each for a second
	cmd.Stderr = t.Output()
	for _, f := range change {
		f(cmd)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := start(cmd); err != nil {
		t.Fatal(err)
	}
	c := &process{cmd: cmd, in: in, out: out.(*os.File), json: json.NewDecoder(out)}
	t.Cleanup(func() { c.end() })
	return c
}

// next reads what the process saw of its next call.
func (c *process) next(t *testing.T) (s sighting) {
	t.Helper()
	c.read(t, &s)
	return s
}

func (c *process) see() (s sighting, err error) {
	err = c.decode(&s)
	return s, err
}

func (c *process) read(t *testing.T, into any) {
	t.Helper()
	if err := c.decode(into); err != nil {
		t.Fatal(err)
	}
}

func (c *process) decode(into any) error {
	if err := c.out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := c.json.Decode(into); err != nil {
		return fmt.Errorf("process said nothing more: %w", err)
	}
	return nil
}

// end lets the process close the sockets that it kept, and waits for its end.
func (c *process) end() error {
	c.in.Close()
	killer := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	defer killer.Stop()
	if err := c.cmd.Wait(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}
