package handover

import (
	"context"
	"errors"
	"fmt"
)

// Restart is for the service's ExecStop=: when systemd restarts the service, it has the bridge give its
// files to systemd's store, looks whether they are there, and only then tells the bridge to leave them
// in place. mainPID is the bridge. Where anything is amiss the bridge takes the restart for a stop and a
// start; for a mere stop nothing is done.
//
// The bridge could not do it: it runs as a user that D-Bus may not know (DynamicUser= with dbus-daemon),
// while root asks systemd itself.
func Restart(ctx context.Context, path string, mainPID int) error {
	unit, err := ownUnit()
	if err != nil {
		return err
	}
	if restarting, err := isRestarting(ctx, unit); err != nil || !restarting {
		return err
	}
	w, err := dial(path)
	if err != nil {
		return fmt.Errorf("connect to the bridge: %w", err)
	}
	defer w.Close()
	if peer, err := w.peer(); err != nil || int(peer.Pid) != mainPID {
		return errors.Join(fmt.Errorf("at %s is not the service's process, %d", path, mainPID), err)
	}
	return leave(w, func() (int, error) { return keptFiles(ctx, unit) })
}

// leave has a bridge give its files to systemd, and lets it go if as many are kept.
func leave(w wire, kept func() (int, error)) error {
	if err := w.send(message{Kind: restart}, nil, wordPatience); err != nil {
		return err
	}
	m, _, err := w.expect(given, storePatience)
	if err != nil {
		return err
	}
	// systemd drops what is beyond its limit, or what it takes for one that it has, and tells nobody.
	n, err := kept()
	if err == nil && n != m.Count {
		err = fmt.Errorf("systemd keeps %d files of %d (FileDescriptorStoreMax=%d or more makes room)", n, m.Count, m.Count)
	}
	if err != nil {
		return errors.Join(err, w.send(message{Kind: refused, Why: err.Error()}, nil, wordPatience))
	}
	return w.send(message{Kind: retire}, nil, wordPatience)
}

// prepare is the bridge's side.
func (c *Control) prepare(w wire, h Holder) error {
	if h.Whole == nil {
		return errors.New("there is nothing that systemd could keep")
	}
	s, err := h.Whole()
	if err != nil {
		return err
	}
	defer s.Close()
	n, err := Keep(s)
	if err != nil {
		return err
	}
	if err := w.send(message{Kind: given, Count: n}, nil, wordPatience); err != nil {
		return errors.Join(err, Forget(s))
	}
	if _, _, err := w.expect(retire, storePatience); err != nil {
		return errors.Join(err, Forget(s))
	}
	h.Leave()
	return nil
}
