package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/handover"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
)

// adminPatience is how long a bridge waits for its predecessor to leave the admin listener.
const adminPatience = 5 * time.Second

// controlPath is where a running bridge can be taken over from: a file of its own for each network
// namespace, where at most one bridge has the listeners.
func controlPath() (string, error) {
	dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":") // of the systemd unit, of which there may be several
	if dir == "" {
		dir = "/run/imds-bridge"
	}
	netns, err := redirect.OwnNetNS()
	return filepath.Join(dir, fmt.Sprintf("control-%d.sock", netns)), err
}

// takeOver proves this bridge in the place of the running one, for which calls wait a moment, and lets
// that one go. After an error it serves on.
func (b *bridge) takeOver(ctx context.Context) error {
	live := b.before.live
	if err := live.Pause(); err != nil && !errors.Is(err, handover.ErrGone) {
		return fmt.Errorf("take over: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, handover.Patience)
	defer cancel()
	b.proxy.Resume()
	b.pulse.resume()
	if err := b.check.run(ctx, b.cgroup.Path); err != nil {
		return err
	}
	if err := b.settle(); err != nil {
		return err
	}
	b.pulse.beatOnce() // from now on calls are this bridge's alone
	if err := live.Retire(); err != nil && !errors.Is(err, handover.ErrGone) {
		return fmt.Errorf("take over: %w", err)
	}
	if err := b.inherit(); err != nil {
		return err
	}
	b.inheritAdmin()
	return nil
}

// inherit takes on what the bridge before no longer needs.
func (b *bridge) inherit() error {
	if b.before == nil {
		return nil
	}
	var errs []error
	for _, l := range b.listeners {
		errs = append(errs, l.Own())
	}
	b.pulse.beatOnce()
	return errors.Join(append(errs, b.before.end())...)
}

// giveUp leaves the bridge before in place if this one did not come to take it, and accepts nothing
// more in its stead.
func (b *bridge) giveUp() error {
	if b.before.isLive() && b.before.Files != nil {
		b.acceptNoMore()
	}
	return b.before.end()
}

// inheritAdmin waits until the bridge before has left the admin listener. Calls are served meanwhile,
// and whatever comes of it.
func (b *bridge) inheritAdmin() {
	var err error
	for until := time.Now().Add(adminPatience); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if err = b.serveAdmin(); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		b.log.Error("there is no admin listener: the bridge before, or somebody else, has it", "error", err.Error())
	}
}

// serveControl lets the next version take over from this one. Where there is no place for the socket
// it cannot, which hurts nobody else.
func (b *bridge) serveControl() {
	if b.proxy == nil {
		return // nobody waits for one that only watches
	}
	path, err := controlPath()
	if err == nil {
		b.control, err = handover.Listen(path, b.before.pid())
	}
	if err != nil {
		b.log.Info("run --takeover cannot take over from this bridge", "error", err.Error())
		return
	}
	holder := handover.Holder{
		Pause:  b.pause,
		Resume: b.resume,
		Retire: func() { close(b.succeeded) },
		Logger: b.log,
	}
	switch h, ok := (*b.attached.Load()).(*hook.Hook); {
	case !ok:
		holder.Refusal = "its redirector, " + b.status.choice.redirector + ", cannot be handed over: stop it, then start the next"
	case handover.UnderSystemd():
		holder.Refusal = "it is a service of systemd: systemctl restart hands over without losing a call"
		holder.Whole = func() (handover.State, error) { return b.whole(h) }
		holder.Leave = func() { b.restarting.Store(true) }
	default:
		holder.State = func() (handover.State, error) { return b.state(h) }
	}
	go func() {
		if err := b.control.Serve(holder); err != nil {
			b.log.Warn("run --takeover cannot take over from this bridge any longer", "error", err.Error())
		}
	}()
}

func (b *bridge) pause() {
	b.pulse.hold()
	b.proxy.Pause()
}

func (b *bridge) resume() {
	b.proxy.Resume()
	b.pulse.resume()
	// A successor that died late may have put its own hook where that of a bridge that fails closed is.
	if err := b.settle(); err != nil {
		b.log.Error("the hook is not what it was before the takeover", "error", err.Error())
	}
}

// isSucceeded tells whether the next bridge serves. After it none can take over any more.
func (b *bridge) isSucceeded() bool {
	if b.control == nil {
		return false
	}
	if err := b.control.Close(); err != nil {
		b.log.Warn("the control socket stays", "error", err.Error())
	}
	select {
	case <-b.succeeded:
		return true
	default:
		return false
	}
}

// retire ends this bridge, whose successor serves by now.
func (b *bridge) retire() error {
	b.log.Info("retires: the next bridge serves")
	b.disown()
	b.acceptNoMore()
	var err error
	if b.admin != nil {
		err = b.admin.Close()
	}
	return errors.Join(err, b.drain())
}

// acceptNoMore leaves what waits in the backlog to another process that has the listeners too.
func (b *bridge) acceptNoMore() {
	for _, l := range b.listeners {
		_ = l.TCPListener.Close() // Close comes later, and says the same
	}
}

// disown leaves the listeners' addresses to the next bridge.
func (b *bridge) disown() {
	for _, l := range b.listeners {
		l.Disown()
	}
}

// state is what the next bridge needs to go on where this one ends.
func (b *bridge) state(h *hook.Hook) (_ handover.State, err error) {
	s := handover.State{Version: version, Files: map[string]*os.File{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.Terms, err = terms(b.config, b.status.choice); err != nil {
		return s, err
	}
	for _, l := range b.listeners {
		name := fileListen
		if l.Addr().(*net.TCPAddr).IP.To4() == nil {
			name = fileListen6
		}
		if s.Files[name], err = l.File(); err != nil {
			delete(s.Files, name)
			return s, err
		}
	}
	records := h.Records()
	for name, m := range map[string]*ebpf.Map{fileSockets: records.Sockets, fileConnections: records.Connections} {
		fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return s, fmt.Errorf("duplicate the records: %w", err)
		}
		s.Files[name] = os.NewFile(uintptr(fd), name)
	}
	return s, nil
}
