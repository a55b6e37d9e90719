package iptables

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Bridge and guard talk over a pair of Unix sockets that keep messages apart. Its end tells each of the
// other's end, whatever that was.

// request is what the bridge asks of its guard. Each but a beat is answered.
type request struct {
	Do        verb
	Rules     *Rules        `json:",omitempty"`
	Heartbeat time.Duration `json:",omitempty"`
	Closed    bool          `json:",omitempty"`
}

type verb string

const (
	doInstall verb = "install"
	doSettle  verb = "settle"
	doBeat    verb = "beat"
	doRemove  verb = "remove"
)

type reply struct {
	Error     string
	Missing   bool // the error is ErrMissing
	Backend   bool // the error is ErrBackend
	Report    Report
	Leftovers Leftovers

	set      *set // for the guard itself
	refusing bool
}

func (a *reply) setError(err error) {
	if err == nil {
		return
	}
	a.Error = err.Error()
	a.Missing, a.Backend = errors.Is(err, ErrMissing), errors.Is(err, ErrBackend)
}

func (a *reply) error() error {
	switch {
	case a.Error == "":
		return nil
	case a.Missing:
		return guardError{a.Error, ErrMissing}
	case a.Backend:
		return guardError{a.Error, ErrBackend}
	default:
		return errors.New(a.Error)
	}
}

// guardError is an error that came from the guard.
type guardError struct {
	text string
	is   error
}

func (e guardError) Error() string { return e.text }
func (e guardError) Unwrap() error { return e.is }

const maxMessage = 64 << 10

func socketpair() (ours *net.UnixConn, guards *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	guards = os.NewFile(uintptr(fds[1]), "guard")
	own := os.NewFile(uintptr(fds[0]), "bridge")
	defer own.Close()
	if ours, err = connOf(own); err != nil {
		guards.Close()
	}
	return ours, guards, err
}

// connOf takes a copy of the file's descriptor.
func connOf(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("use the socket between bridge and guard: %w", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("what is between bridge and guard is no Unix socket"), c.Close())
	}
	return conn, nil
}

// sendPatience is how long a message may take to be handed over. Who takes none for so long hangs.
const sendPatience = time.Second

func send(c *net.UnixConn, message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	// As late as can be: on a machine without a processor to spare, the time up to here may be long.
	if err := c.SetWriteDeadline(time.Now().Add(sendPatience)); err != nil {
		return err
	}
	_, err = c.Write(text)
	return err
}

func receive(c *net.UnixConn, into any) error {
	buf := make([]byte, maxMessage)
	n, err := c.Read(buf)
	if err != nil {
		return err
	}
	return json.Unmarshal(buf[:n], into)
}
