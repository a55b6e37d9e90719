package redirect

import (
	"fmt"
	"net"
	"net/netip"
	"os"
)

// Inherit makes a listener of one that another bridge has made and still has. Closing it leaves the
// address alone, until [Listener.Own]. It does not close the file.
func Inherit(f *os.File, at netip.AddrPort) (*Listener, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over the listener on %s: %w", at, err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok || tcp.Addr().(*net.TCPAddr).AddrPort() != at {
		l.Close()
		return nil, fmt.Errorf("take over the listener on %s: what was handed over listens on %s %s", at, l.Addr().Network(), l.Addr())
	}
	return &Listener{TCPListener: tcp, port: at.Port()}, nil
}

// Own takes the address on: it is there from now on, and goes with Close if a bridge added it.
func (l *Listener) Own() error {
	added, err := addAddress(l.Addr().(*net.TCPAddr).AddrPort().Addr())
	if err != nil {
		return err
	}
	l.added = added
	return nil
}

// Disown leaves the address to the bridge that listens on it next. It comes before Close.
func (l *Listener) Disown() { l.added = nil }
