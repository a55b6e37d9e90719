package e2e

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestSystemdIsToldOfReadinessAndStop(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	systemd := listenAsSystemd(t)
	b := i.launchBridge(t, bridgeOptions{env: []string{systemd.variable()}})

	await(t, "word of the bridge", 10*time.Second, func() bool { return len(systemd.told()) > 0 })
	if status, body := b.get("/readyz"); status != http.StatusOK {
		t.Errorf("/readyz after systemd was told %q: %d %s", systemd.told(), status, body)
	}
	if told, want := systemd.told(), []string{"READY=1"}; !slices.Equal(told, want) {
		t.Errorf("systemd was told %q, want %q", told, want)
	}

	b.stop(t)
	want := []string{"READY=1", "STOPPING=1"}
	await(t, "the last word", 5*time.Second, func() bool { return len(systemd.told()) >= len(want) })
	if told := systemd.told(); !slices.Equal(told, want) {
		t.Errorf("systemd was told %q, want %q", told, want)
	}
}

// notifySocket is what systemd gives to a service of Type=notify.
type notifySocket struct {
	path string

	mu    sync.Mutex
	heard []string
}

func listenAsSystemd(t *testing.T) *notifySocket {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "systemd") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &notifySocket{path: filepath.Join(dir, "notify")}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	go s.listen(socket)
	return s
}

func (s *notifySocket) listen(socket *net.UnixConn) {
	for message := make([]byte, 4096); ; {
		n, err := socket.Read(message)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.heard = append(s.heard, string(message[:n]))
		s.mu.Unlock()
	}
}

func (s *notifySocket) variable() string { return "NOTIFY_SOCKET=" + s.path }

func (s *notifySocket) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard)
}
