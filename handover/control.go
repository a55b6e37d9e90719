package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Holder is the running bridge, as far as its successor is concerned.
type Holder struct {
	// State is what another bridge takes over. Its files are closed once they are sent.
	State func() (State, error)
	// Whole is what systemd keeps during a restart: the same, and what else must outlive the process
	// for calls to wait. Nil where it cannot.
	Whole func() (State, error)
	// Pause lets new connections wait, for half a second at most: then comes Resume, or Retire.
	Pause  func()
	Resume func()
	// Retire lets the bridge go: its successor serves. It does not wait.
	Retire func()
	// Leave says that systemd has what Whole returned: when it stops this bridge next, it restarts it.
	Leave func()
	// Refusal is why nobody can take over, and what to do instead. Empty: somebody can.
	Refusal string
	Logger  *slog.Logger
}

// How long the running bridge waits for its successor.
const (
	wordPatience    = time.Second            // for what needs no work
	preparePatience = 30 * time.Second       // for the successor to get ready, while this one serves
	pausePatience   = 500 * time.Millisecond // while nobody may serve
	storePatience   = 5 * time.Second        // to ask systemd
)

// Control is the socket at which a running bridge can be taken over from. Its file is for the bridge's
// user and root alone. A name in the abstract namespace would be open to every container with the
// host's network; this path is in the host's file system only.
type Control struct {
	path     string
	listener *net.UnixListener
	sessions sync.WaitGroup
	takeover sync.Mutex // held by the one session that goes beyond hello

	mu      sync.Mutex
	open    map[wire]bool
	closed  bool
	retired bool
}

// ErrInUse is returned by [Listen] when another bridge answers at the path.
var ErrInUse = errors.New("another bridge answers there")

// Listen makes the control socket. It replaces the one of a bridge that is dead, and that of process
// predecessor, which retires; 0 is none.
func Listen(path string, predecessor int) (*Control, error) {
	if w, err := dial(path); err == nil {
		pid, err := w.checkPeer(os.Geteuid())
		w.Close()
		if err != nil || pid != predecessor {
			return nil, fmt.Errorf("control socket %s: %w", path, ErrInUse)
		}
	}
	// Under another name first, and moved over whatever is there: no moment without a socket.
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	listener, err := bind(fresh)
	if err != nil {
		return nil, fmt.Errorf("make the control socket: %w", err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return nil, errors.Join(fmt.Errorf("make the control socket: %w", err), listener.Close(), os.Remove(fresh))
	}
	return &Control{path: path, listener: listener, open: map[wire]bool{}}, nil
}

// bind sets the mode on the socket before bind, which passes it on to the file: at no moment can
// another user connect.
func bind(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) { inner = syscall.Fchmod(int(fd), 0o600) })
		return errors.Join(err, inner)
	}}
	l, err := config.Listen(context.Background(), "unixpacket", path)
	if err != nil {
		return nil, err
	}
	listener := l.(*net.UnixListener)
	listener.SetUnlinkOnClose(false) // it has another name then
	return listener, nil
}

// Serve lets bridges take over from h until Close. After h has retired, nobody can any more.
func (c *Control) Serve(h Holder) error {
	for {
		conn, err := c.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		var temporary interface{ Temporary() bool }
		if errors.As(err, &temporary) && temporary.Temporary() {
			time.Sleep(100 * time.Millisecond) // out of descriptors, which come back
			continue
		}
		if err != nil {
			return fmt.Errorf("accept at the control socket: %w", err)
		}
		if w := (wire{conn}); c.track(w) {
			go c.session(w, h)
		}
	}
}

func (c *Control) track(w wire) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		w.Close()
		return false
	}
	c.open[w] = true
	c.sessions.Add(1)
	return true
}

func (c *Control) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func (c *Control) end(w wire) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, w)
	w.Close()
	c.sessions.Done()
}

// session speaks with one newcomer. Whatever becomes of it, the bridge is left serving or retired.
func (c *Control) session(w wire, h Holder) {
	defer c.end(w)
	pid, err := w.checkPeer(os.Geteuid())
	if err != nil {
		h.Logger.Warn("takeover refused", "error", err.Error())
		return
	}
	log := h.Logger.With("successor", pid)
	err = c.handOver(w, h, log)
	if err != nil && c.isClosed() {
		err = errors.New("it is being stopped")
	}
	if errors.Is(err, io.EOF) && !errors.Is(err, errNoHello) {
		err = errors.New("the successor has ended")
	}
	switch {
	case errors.Is(err, errNoHello): // somebody looked whether there is a bridge
	case err != nil:
		log.Warn("takeover broken off: this bridge goes on", "error", err.Error())
		// What the newcomer did not read until now it reads before the end of the connection.
		_ = w.send(message{Kind: refused, Why: err.Error()}, nil, wordPatience)
	}
}

var errNoHello = errors.New("no hello")

func (c *Control) handOver(w wire, h Holder, log *slog.Logger) error {
	greeting, _, err := w.receive(wordPatience)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %s", errNoHello, err)
	case greeting.Kind == restart:
		return c.prepare(w, h)
	case greeting.Kind != hello:
		return fmt.Errorf("%w: %q instead of %q", errMalformed, greeting.Kind, hello)
	}
	if h.Refusal != "" {
		return errors.New(h.Refusal)
	}
	if !c.takeover.TryLock() {
		return errors.New("another takeover is under way, or done")
	}
	done := false
	defer func() {
		if !done {
			c.takeover.Unlock()
		}
	}()
	log.Info("takeover begins", "version", greeting.Version)
	if err := offer(w, h); err != nil {
		return fmt.Errorf("hand over the listeners: %w", err)
	}
	if _, _, err := w.expect(pause, preparePatience); err != nil {
		return fmt.Errorf("wait for the successor to be ready: %w", err)
	}
	h.Pause()
	if err := c.letGo(w); err != nil {
		h.Resume()
		return fmt.Errorf("wait for the successor to prove itself: %w", err)
	}
	done = true
	h.Retire()
	return nil
}

func offer(w wire, h Holder) error {
	s, err := h.State()
	if err != nil {
		return err
	}
	defer s.Close()
	return w.send(message{Kind: state, Version: s.Version, Terms: s.Terms, Files: s.names()}, s.Files, wordPatience)
}

// letGo returns nil once the successor has sent that this bridge retires. Both always agree: what was
// sent counts, however late it is read, and when this bridge waits no longer nothing can be sent.
func (c *Control) letGo(w wire) error {
	if err := w.send(message{Kind: paused}, nil, wordPatience); err != nil {
		return err
	}
	_, _, err := w.expect(retire, pausePatience)
	if errors.Is(err, os.ErrDeadlineExceeded) && w.CloseRead() == nil {
		if _, _, late := w.expect(retire, wordPatience); late == nil {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
	return nil
}

// Close ends what is under way, and removes the socket if it is not the successor's by now. A successor
// that has sent its last word has won: then Retire was called when Close returns.
func (c *Control) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	err := c.listener.Close()
	for w := range c.open {
		_ = w.CloseRead() // which leaves a last word to both; one that is gone needs none
	}
	c.mu.Unlock()
	c.sessions.Wait()
	if !c.retired {
		err = errors.Join(err, os.Remove(c.path))
	}
	return err
}
