package iptables

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// How long a guard tries to remove the rules, should somebody hold the lock of the tables. They match nothing
// meanwhile.
const (
	removePatience = time.Minute // after a bridge that is dead
	// stopPatience is for a bridge that stops, and waits. A try that waits for the lock in vain takes as long as
	// two of [Tools].LockTimeout, and the last one begins within it: that is less than systemd gives a stop.
	stopPatience = 15 * time.Second
	retryAfter   = 500 * time.Millisecond
)

// RunGuard is the life of a guard: the process that [Attach] starts, with the socket to the bridge as
// conn. It owns the process: it ignores the signals that end one, because it has work to do after
// them, and drops every capability but [Capabilities]. It returns when the bridge has ended, or
// asked it to.
//
//   - The bridge beats: the rules match.
//   - It is silent for longer than its heartbeat: they match nothing, until it beats again.
//   - It dies: they match nothing at once, and are removed.
//   - Bridge and guard die or hang together: the kernel does as much within a second.
//
// With rules that match nothing calls go to IMDS as they are or, with FailClosed, are refused.
func RunGuard(conn *os.File, logger *slog.Logger) error {
	// The bridge's own end tells when to go: what ends a whole process group, or a unit, comes before that.
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	bridge, err := connOf(conn)
	if err != nil {
		return err
	}
	defer bridge.Close()
	if err := keepCapabilities(); err != nil {
		return err
	}
	g := &guard{bridge: bridge, log: logger, requests: make(chan request), done: make(chan reply, 1)}
	go g.listen()
	return g.run()
}

type guard struct {
	bridge   *net.UnixConn
	log      *slog.Logger
	requests chan request // closed at the bridge's end
	done     chan reply   // of the request under way

	set       *set // nil before the install
	alive     net.Listener
	heartbeat time.Duration
	closed    bool // calls are refused when the bridge does not beat
	refusing  bool // the rules for that are in place
	beating   bool
	leaving   bool // the rules are removed, or about to be
	silence   *time.Timer
}

// listen reads requests until the bridge's end.
func (g *guard) listen() {
	defer close(g.requests)
	for {
		var r request
		if err := receive(g.bridge, &r); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				g.log.Warn("hear the bridge", "error", err.Error())
			}
			return
		}
		g.requests <- r
	}
}

func (g *guard) run() error {
	g.silence = time.NewTimer(time.Hour)
	g.silence.Stop()
	defer g.silence.Stop()
	working := false
	for {
		select {
		case r, ok := <-g.requests:
			switch {
			case !ok:
				return g.bury(working)
			case r.Do == doBeat:
				g.beat()
			case working:
				return errors.New("the bridge asks for two things at once")
			default:
				working = true
				g.leaving = g.leaving || r.Do == doRemove
				// Not here: it takes several programs, and beats must be heard meanwhile.
				go func() { g.done <- g.answer(r) }()
			}
		case a := <-g.done:
			working = false
			g.take(a)
			if err := send(g.bridge, a); err != nil {
				g.log.Warn("answer the bridge", "error", err.Error())
			}
			if g.leaving {
				return nil
			}
		case <-g.silence.C:
			g.fallSilent()
		}
	}
}

// take makes the outcome of a request the guard's state.
func (g *guard) take(a reply) {
	if a.set != nil {
		g.set = a.set
		g.beat()
	}
	g.refusing = g.refusing || a.refusing
}

// answer does what is asked. It changes no state: it is not the only one at work.
func (g *guard) answer(r request) (a reply) {
	var err error
	switch r.Do {
	case doInstall:
		a, err = g.install(r)
	case doSettle:
		a, err = g.settle()
	case doRemove:
		a.Leftovers, err = g.remove(stopPatience)
	default:
		err = fmt.Errorf("the guard knows no %q: it is of another version", r.Do)
	}
	a.setError(err)
	return a
}

// install puts the rules in place. They match when all of them are, with the first beat.
func (g *guard) install(r request) (a reply, err error) {
	if g.set != nil || r.Rules == nil || r.Heartbeat <= 0 {
		return a, errors.New("the guard is asked for rules twice, or for none")
	}
	token, err := newToken()
	if err != nil {
		return a, err
	}
	if g.alive, err = stayAlive(token); err != nil {
		return a, err
	}
	g.heartbeat, g.closed = r.Heartbeat, r.Closed
	if a.set, err = newSet(*r.Rules, token); err != nil {
		return a, err
	}
	a.Report = a.set.report
	return a, nil
}

func newToken() (string, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(b[:]), nil
}

// beat lets the rules match until the bridge is silent.
func (g *guard) beat() {
	if g.set == nil || g.leaving {
		return
	}
	if err := g.set.renew(g.heartbeat); err != nil {
		g.log.Error("calls are not redirected", "error", err.Error())
		return
	}
	if !g.beating {
		g.log.Info("calls are redirected")
	}
	g.beating = true
	g.silence.Reset(g.heartbeat)
}

func (g *guard) fallSilent() {
	if g.leaving {
		return
	}
	if err := g.set.cut(); err != nil {
		g.log.Error("calls may be redirected to a bridge that hangs, for a second at most", "error", err.Error())
	}
	g.beating = false
	g.log.Warn("the bridge is silent", "for", g.heartbeat.String(), "calls", g.fate())
}

// fate is what becomes of calls that are not redirected.
func (g *guard) fate() string {
	if g.refusing {
		return "refused"
	}
	return "unchanged"
}

// settle does what is to be done once the bridge has proven itself.
func (g *guard) settle() (a reply, err error) {
	if g.set == nil {
		return a, errors.New("the guard has put no rules in place")
	}
	if g.closed && !g.refusing {
		if err := g.set.refuse(); err != nil {
			return a, errors.Join(err, g.set.unrefuse())
		}
		a.refusing = true
	}
	a.Leftovers, err = sweepDead(g.set.rules.Tools)
	return a, err
}

// remove takes the rules away. Those that refuse calls stay. It tries again for as long as patience lasts.
func (g *guard) remove(patience time.Duration) (all Leftovers, err error) {
	if g.set == nil {
		return all, nil
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(retryAfter) {
		l, err := g.set.remove()
		all.Removed = append(all.Removed, l.Removed...)
		all.Kept = l.Kept // the last try has seen them all
		if err == nil || time.Now().After(deadline) {
			return all, err
		}
		g.log.Warn("rules that match nothing are not removed yet", "error", err.Error())
	}
}

// bury does what the bridge did not live to do. working says that a request of its is under way.
func (g *guard) bury(working bool) error {
	g.leaving = true
	if g.set != nil {
		if err := g.set.cut(); err != nil {
			g.log.Error("calls may be redirected to nobody, for a second at most", "error", err.Error())
		}
	}
	if working {
		g.take(<-g.done)
	}
	if g.set == nil {
		return nil
	}
	g.log.Warn("the bridge is gone", "calls", g.fate())
	l, err := g.remove(removePatience)
	if len(l.Kept) > 0 {
		g.log.Warn("rules that no bridge made are kept", "kept", l.Kept)
	}
	return err
}
