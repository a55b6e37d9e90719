//go:build root

package redirect

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/lab"
)

// inheritIn makes a listener in a namespace of one that is there.
func inheritIn(t *testing.T, n *lab.Namespace, l *Listener) (heir *Listener) {
	t.Helper()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := n.Do(func() error {
		heir, err = Inherit(f, listen4)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Do(heir.Close) })
	return heir
}

func TestAddressGoesWithTheBridgeThatOwnsIt(t *testing.T) {
	host := newLab(t).Host()
	first := mustListen(t, host, listen4)

	// One that comes to nothing leaves the address to the one that serves.
	closeIn(t, host, inheritIn(t, host, first))
	if has(t, host, listen4.Addr()) == nil {
		t.Fatal("the address went with an heir that did not own it")
	}

	heir := inheritIn(t, host, first)
	first.Disown()
	closeIn(t, host, first)
	if has(t, host, listen4.Addr()) == nil {
		t.Fatal("the address went with a bridge that disowned it")
	}
	if err := host.Do(heir.Own); err != nil {
		t.Fatal(err)
	}
	dialled := make(chan error, 1)
	go func() {
		conn, err := host.DialContext(t.Context(), "tcp", listen4.String())
		if err == nil {
			err = conn.Close()
		}
		dialled <- err
	}()
	conn, err := heir.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := <-dialled; err != nil {
		t.Error(err)
	}
	closeIn(t, host, heir)
	if has(t, host, listen4.Addr()) != nil {
		t.Error("the address did not go with the last bridge")
	}
}

func TestInheritRefusesWhatIsNotTheListener(t *testing.T) {
	other, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	f, err := other.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Inherit(f, listen4); err == nil || !strings.Contains(err.Error(), other.Addr().String()) {
		t.Errorf("another listener: %v", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := Inherit(null, listen4); err == nil {
		t.Error("no socket is taken for a listener")
	}
}
