package iptables

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// Options say what [Attach] puts in place.
type Options struct {
	Rules
	// Owners find out whose connection one is.
	Owners Finder
	// Preset says that [Install] put the rules in place, or will: there is no guard, and nothing to beat.
	Preset bool
	// Guard makes the command of a process that calls [RunGuard] with its file descriptor 3.
	Guard func() *exec.Cmd
	// Heartbeat is how long the bridge may be silent before its calls go to IMDS unchanged. The
	// kernel alone, without the guard, takes the next full second.
	Heartbeat time.Duration
	// FailClosed refuses calls, from [Redirector.Settle] on, when the bridge is silent, dead or stopped.
	FailClosed bool
	// Attaching is called when lookups work and just before the first call can arrive. Optional.
	Attaching func(*Redirector)
}

// Finder says whose socket it is that connected from client to server, as [owner.Finder] does.
type Finder interface {
	Find(ctx context.Context, client, server netip.AddrPort) (redirect.Connection, error)
	Begin(client, server netip.AddrPort) (own bool, found func() (redirect.Connection, error), ok bool)
}

// Redirector is the rules in place: put there by [Attach], removed by Detach.
type Redirector struct {
	owners Finder
	counts counts
	links  knownLinks
	report Report

	cmd   *exec.Cmd // the guard; nil without one
	ended chan struct{}

	guard  *net.UnixConn
	asking sync.Mutex // one question to the guard at a time
	tools  Tools

	detaching sync.Once
	detached  atomic.Bool
	detachErr error
}

// answerPatience is how long the guard may take: its programs may each wait for the lock of the tables.
const answerPatience = time.Minute

// Attach puts the rules in place. The listeners must accept already, and the first calls may arrive
// before it returns. It needs [Capabilities]; afterwards the process may drop them, for the guard has
// them. Nothing is left behind by an error.
//
// Call it where the process may start children as it is: in the network namespace of the rules.
func Attach(o Options) (_ *Redirector, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &Redirector{owners: o.Owners, tools: o.Tools, ended: make(chan struct{})}
	if o.Attaching != nil {
		o.Attaching(r)
	}
	if o.Preset {
		return r, nil
	}
	if err := r.startGuard(o.Guard()); err != nil {
		return nil, err
	}
	a, err := r.ask(request{Do: doInstall, Rules: &o.Rules, Heartbeat: o.Heartbeat, Closed: o.FailClosed})
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.report = a.Report
	return r, nil
}

// startGuard starts the guard in a session of its own: what a terminal sends to the bridge is not for it.
func (r *Redirector) startGuard(cmd *exec.Cmd) error {
	conn, guards, err := socketpair()
	if err != nil {
		return err
	}
	defer guards.Close()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if cmd.SysProcAttr.AmbientCaps, err = heldCapabilities(); err != nil {
		return errors.Join(err, conn.Close())
	}
	cmd.ExtraFiles = []*os.File{guards}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start the guard of the rules: %w", err), conn.Close())
	}
	r.cmd, r.guard = cmd, conn
	go func() {
		defer close(r.ended)
		_ = cmd.Wait()
	}()
	return nil
}

// ask sends a request to the guard and waits for its answer.
func (r *Redirector) ask(q request) (a reply, err error) {
	r.asking.Lock()
	defer r.asking.Unlock()
	if err := r.guard.SetReadDeadline(time.Now().Add(answerPatience)); err != nil {
		return a, err
	}
	if err = send(r.guard, q); err == nil {
		err = receive(r.guard, &a)
	}
	if err != nil {
		return a, fmt.Errorf("ask the guard of the rules to %s (was it killed?): %w", q.Do, err)
	}
	return a, a.error()
}

// Report says what is in place; it is empty for rules that were there.
func (r *Redirector) Report() Report { return r.report }

// Settle is for a bridge that has proven itself: rules of dead bridges are swept, and with FailClosed
// calls are refused from now on that are not redirected.
func (r *Redirector) Settle() (Leftovers, error) {
	if r.cmd == nil {
		return Leftovers{}, nil
	}
	a, err := r.ask(request{Do: doSettle})
	return a.Leftovers, err
}

// Beat tells the guard that the bridge is alive. It must be called more often than Options.Heartbeat. An
// error means that the guard is dead or hangs: within a second the kernel lets calls through
// unchanged, and the bridge should end.
func (r *Redirector) Beat() error {
	if r.cmd == nil {
		return nil
	}
	if r.detached.Load() {
		return os.ErrClosed
	}
	if err := send(r.guard, request{Do: doBeat}); err != nil && !r.detached.Load() {
		return fmt.Errorf("the guard of the rules does not hear the bridge (was it killed?): %w", err)
	}
	return nil
}

// Detach removes the rules: new calls go to IMDS as they are or, with FailClosed, are refused until
// [Sweep]. Connections made before it can still be looked up until Close. It is idempotent.
func (r *Redirector) Detach() error {
	if r.cmd == nil {
		return nil
	}
	r.detaching.Do(func() {
		r.detached.Store(true)
		a, err := r.ask(request{Do: doRemove})
		r.detachErr = errors.Join(err, r.guard.Close())
		if err == nil {
			return
		}
		if a.Error == "" {
			// Without its guard, the bridge does it with what privileges it has left. The rules match nothing.
			_, swept := sweepDead(r.tools)
			if swept == nil {
				return
			}
			r.detachErr = errors.Join(r.detachErr, swept)
		}
		r.detachErr = fmt.Errorf("%w; rules that match nothing are left for the next start, or imds-bridge cleanup", r.detachErr)
	})
	return r.detachErr
}

// Close is Detach, and waits for the guard's end. It is idempotent.
func (r *Redirector) Close() error {
	err := r.Detach()
	if r.cmd == nil {
		return err
	}
	select {
	case <-r.ended:
	case <-time.After(answerPatience):
		_ = r.cmd.Process.Kill()
		<-r.ended
	}
	return err
}
