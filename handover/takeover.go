package handover

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Takeover is a takeover from a running bridge, seen by its successor. Until [Takeover.Retire] has
// returned nil, the running bridge serves, or will again within half a second.
type Takeover struct {
	State State // of the running bridge. The files are the successor's to close.
	PID   int   // of the running bridge
	wire  wire
}

var (
	// ErrNobody is returned by [Begin] when no bridge answers at the path.
	ErrNobody = errors.New("no bridge is running")
	// ErrGone is returned when the running bridge died amid the takeover.
	ErrGone = errors.New("the running bridge has ended")
)

// RefusedError is returned when the running bridge stays, and says why.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return "the running bridge refuses: " + e.Why }

// Begin asks the bridge at the control socket for what it has. It goes on serving.
func Begin(path, version string) (_ *Takeover, err error) {
	w, err := dial(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrNobody
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the running bridge: %w", err)
	}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	pid, err := w.checkPeer(os.Geteuid())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := w.send(message{Kind: hello, Version: version}, nil, wordPatience); err != nil {
		return nil, heard(err, pid)
	}
	m, files, err := w.expect(state, wordPatience)
	if err != nil {
		return nil, heard(err, pid)
	}
	return &Takeover{State: State{Version: m.Version, Terms: m.Terms, Files: files}, PID: pid, wire: w}, nil
}

func dial(path string) (wire, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	return wire{conn}, err
}

// heard says what an error means for the successor.
func heard(err error, pid int) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		return ErrGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("process %d, the running bridge, does not answer: if it hangs, end it and start this one again: %w", pid, err)
	}
	return err
}

// Pause lets the running bridge accept no further connections. It does so for half a second: then it
// resumes and stays.
func (t *Takeover) Pause() error { return t.ask(pause, paused) }

// Retire lets the running bridge go. After an error other than [ErrGone] it stays.
func (t *Takeover) Retire() error {
	err := t.wire.send(message{Kind: retire}, nil, wordPatience)
	if err == nil {
		return nil
	}
	return t.explain(err)
}

func (t *Takeover) ask(question, answer string) error {
	if err := t.wire.send(message{Kind: question}, nil, wordPatience); err != nil {
		return t.explain(err)
	}
	_, _, err := t.wire.expect(answer, wordPatience)
	return heard(err, t.PID)
}

// explain prefers to the error of a message that cannot be sent what the running bridge said at last.
func (t *Takeover) explain(err error) error {
	if m, _, last := t.wire.expect(refused, wordPatience); last == nil {
		return &RefusedError{m.Why}
	}
	return heard(err, t.PID)
}

// Close ends the takeover. A bridge that has not retired by then stays. It does not close the files.
func (t *Takeover) Close() error { return t.wire.Close() }

// Patience is how long the running bridge waits between [Takeover.Pause] and [Takeover.Retire].
const Patience = pausePatience - 100*time.Millisecond
