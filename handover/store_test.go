package handover

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// systemd is what NOTIFY_SOCKET leads to.
type systemd struct{ *net.UnixConn }

func listenAsSystemd(t *testing.T) systemd {
	t.Helper()
	path := socketPath(t)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return systemd{socket}
}

// stored takes n messages, and returns what a process would get from them.
func (s systemd) stored(t *testing.T, n int) (all State) {
	t.Helper()
	all.Files = map[string]*os.File{}
	for range n {
		text, control := make([]byte, maxBytes), make([]byte, 256)
		s.SetReadDeadline(time.Now().Add(2 * time.Second))
		length, controlled, _, _, err := s.ReadMsgUnix(text, control)
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(string(text[:length]), "FDSTORE=1\nFDPOLL=0\nFDNAME=")
		files, err := received(control[:controlled])
		if err != nil || !ok || len(files) != 1 || all.Files[name] != nil {
			t.Fatalf("%d files with %q, %v", len(files), text[:length], err)
		}
		all.Files[name] = files[0]
	}
	t.Cleanup(func() {
		if err := all.Close(); err != nil {
			t.Error(err)
		}
	})
	return all
}

// left is a state with two files, which are closed with the test.
func left(t *testing.T) State {
	t.Helper()
	s := State{Version: "1", Terms: terms, Files: map[string]*os.File{}}
	for name, path := range map[string]string{"listen": os.DevNull, "other": "/dev/zero"} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		s.Files[name] = f
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStoreGivesBackWhatItWasGiven(t *testing.T) {
	socket, s := listenAsSystemd(t), left(t)
	do(t, func() error { return give(s) })
	all := socket.stored(t, 3)
	got, err := recognize(all, 3)
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != "1" || !maps.Equal(got.Terms, terms) || !slices.Equal(got.names(), s.names()) {
		t.Errorf("got %+v of %+v", got, s)
	}
	for name, f := range got.Files {
		want, _ := s.Files[name].Stat()
		if is, err := f.Stat(); err != nil || !os.SameFile(is, want) {
			t.Errorf("%s is another file, %v", name, err)
		}
	}
}

func TestStoreIsToldToForget(t *testing.T) {
	socket, s := listenAsSystemd(t), left(t)
	forgotten := make(chan error)
	go func() { forgotten <- Forget(s) }()
	for _, name := range []string{"listen", "other", stateFile} {
		text := make([]byte, 100)
		n, err := socket.Read(text)
		if want := "FDSTOREREMOVE=1\nFDNAME=" + name; err != nil || string(text[:n]) != want {
			t.Errorf("%q, %v, want %q", text[:n], err, want)
		}
	}
	if !socket.answer() {
		t.Error("systemd is not waited for")
	}
	do(t, func() error { return <-forgotten })
}

// Keep waits until systemd has read what it was given: it lets go of the file that comes last then.
func TestKeepWaitsForSystemd(t *testing.T) {
	socket, s := listenAsSystemd(t), left(t)
	kept := make(chan error)
	go func() {
		n, err := Keep(s)
		if n != 3 {
			err = fmt.Errorf("%d files, %w", n, err)
		}
		kept <- err
	}()
	socket.stored(t, 3)
	text, control := make([]byte, 100), make([]byte, 256)
	n, controlled, _, _, err := socket.ReadMsgUnix(text, control)
	if err != nil || string(text[:n]) != "BARRIER=1" {
		t.Fatalf("%q, %v", text[:n], err)
	}
	select {
	case err := <-kept:
		t.Fatalf("it does not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	files, err := received(control[:controlled])
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	files[0].Close()
	if err := <-kept; err != nil {
		t.Error(err)
	}
}

func TestSystemdThatDoesNotReadKeepsNothing(t *testing.T) {
	socket, s := listenAsSystemd(t), left(t)
	if n, err := Keep(s); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d, %v", n, err)
	}
	socket.stored(t, 3)
	for _, want := range []string{"BARRIER=1", "FDSTOREREMOVE=1"} {
		text := make([]byte, 100)
		if n, err := socket.Read(text); err != nil || !strings.HasPrefix(string(text[:n]), want) {
			t.Errorf("%q, %v, want %s", text[:n], err, want)
		}
	}
}

// The bridge leaves its files to systemd only if as many are there as it gave.
func TestRestartIsPreparedIfSystemdKeepsEverything(t *testing.T) {
	for name, c := range map[string]struct {
		kept int
		err  error
		want []string
	}{
		"all":            {4, nil, []string{"leave"}},
		"fewer":          {3, nil, nil},
		"nobody can say": {0, errors.New("no bus"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			socket := listenAsSystemd(t)
			r := start(t, "takeover is refused")
			w, err := dial(r.path)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				for socket.answer() {
				}
			}()
			err = leave(w, func() (int, error) { return c.kept, c.err })
			if (err == nil) != (c.want != nil) {
				t.Errorf("%v", err)
			}
			w.Close()
			do(t, r.Close)
			r.expect(t, c.want...)
			socket.Close()
			<-answered
		})
	}
}

// answer reads a message as systemd does, which lets go of the files of a barrier.
func (s systemd) answer() bool {
	control := make([]byte, 256)
	_, controlled, _, _, err := s.ReadMsgUnix(make([]byte, 100), control)
	if err != nil {
		return false
	}
	files, _ := received(control[:controlled])
	for _, f := range files {
		f.Close()
	}
	return true
}

func TestWhatIsNoBridgesIsNotRecognized(t *testing.T) {
	socket := listenAsSystemd(t)
	for name, spoil := range map[string]func(*State){
		"no description": func(all *State) { all.close(stateFile) },
		"a file less":    func(all *State) { all.close("other") },
		"another name":   func(all *State) { all.Files["else"] = all.Files["other"]; delete(all.Files, "other") },
		"no JSON": func(all *State) {
			all.close(stateFile)
			all.Files[stateFile], _ = os.Open(os.DevNull)
		},
	} {
		do(t, func() error { return give(left(t)) })
		all := socket.stored(t, 3)
		spoil(&all)
		if got, err := recognize(all, len(all.Files)); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func (s *State) close(name string) {
	s.Files[name].Close()
	delete(s.Files, name)
}

func TestNothingIsKeptForAnotherProcess(t *testing.T) {
	for _, pid := range []string{"", "1"} {
		t.Setenv("LISTEN_PID", pid)
		t.Setenv("LISTEN_FDS", "1")
		if s, err := Kept(); s != nil || err != nil {
			t.Errorf("LISTEN_PID=%s: %+v, %v", pid, s, err)
		}
	}
}

func TestRestartIsToldFromStop(t *testing.T) {
	t.Parallel()
	const unit = "imds-bridge.service"
	for jobs, want := range map[string]bool{
		"":                                     false,
		"No jobs running.\n":                   false,
		"7 imds-bridge.service stop running\n": false,
		"7 imds-bridge.service restart running\n":                                     true,
		"123 imds-bridge.service try-restart running\n":                               true,
		"7 other.service restart running\n":                                           false,
		"6 other.service restart running\n7 imds-bridge.service stop waiting\n":       false,
		"6 other.service stop running\n    7 imds-bridge.service restart   running\n": true,
	} {
		if got := isRestart(jobs, unit); got != want {
			t.Errorf("%q: %t", jobs, got)
		}
	}
}

func TestUnitIsReadFromCgroups(t *testing.T) {
	t.Parallel()
	for cgroups, want := range map[string]string{
		"0::/system.slice/imds-bridge.service\n":                                              "imds-bridge.service",
		"0::/system.slice/imds-bridge.service/below\n":                                        "imds-bridge.service",
		"12:pids:/a.service\n1:name=systemd:/system.slice/imds-bridge.service\n0::/b.scope\n": "imds-bridge.service",
		"0::/user.slice/user-0.slice/session-1.scope\n":                                       "",
		"0::/\n": "",
		"":       "",
	} {
		if got, err := unitOf(cgroups); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", cgroups, got, err)
		}
	}
}
