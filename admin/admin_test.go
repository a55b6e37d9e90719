package admin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// serve runs a server on address until the test ends. ready says what /readyz says.
func serve(t *testing.T, address string, ready *atomic.Bool) net.Listener {
	t.Helper()
	l, err := Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{
		Status: func() Status {
			if !ready.Load() {
				return Status{Reason: "self-check pending", Redirector: "ebpf", Choice: "configured"}
			}
			return Status{Ready: true, Redirector: "ebpf", Choice: "configured", CoverageFrom: time.Unix(1, 0).UTC()}
		},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "imds_up 1\n")
		}),
		Logger: slog.New(slog.DiscardHandler),
	})
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l
}

// get makes a request with a Host header of its own on a connection of its own.
func get(t *testing.T, l net.Listener, method, path, host string) (*http.Response, string) {
	t.Helper()
	client := http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, l.Addr().Network(), l.Addr().String())
			},
		},
	}
	r, err := http.NewRequest(method, "http://x"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestPages(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "localhost:0", "unix:" + socketPath(t)} {
		var ready atomic.Bool
		l := serve(t, address, &ready)
		check := func(method, path string, status int, want string) {
			t.Helper()
			resp, body := get(t, l, method, path, "localhost:8255")
			if resp.StatusCode != status || !strings.Contains(body, want) {
				t.Errorf("%s: %s %s: %d %q, want %d %q", address, method, path, resp.StatusCode, body, status, want)
			}
		}
		check("GET", "/healthz", 200, `{"healthy":true}`)
		check("GET", "/readyz", 503, `{"ready":false,"reason":"self-check pending","redirector":"ebpf","choice":"configured"}`)
		ready.Store(true)
		check("GET", "/readyz", 200, `{"ready":true,"redirector":"ebpf","choice":"configured","coverage_from":"1970-01-01T00:00:01Z"}`)
		check("HEAD", "/readyz", 200, "")
		check("GET", "/metrics", 200, "imds_up 1\n")
		check("GET", "/debug/pprof/", 200, "goroutine")
		check("GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile")
		check("GET", "/debug/pprof/cmdline", 200, "admin.test")
		check("GET", "/debug/pprof/trace?seconds=0.01", 200, "trace")
		check("GET", "/", 404, "")
		for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
			check(method, "/healthz", 405, "GET")
		}
	}
}

func TestHostIsChecked(t *testing.T) {
	t.Parallel()
	var ready atomic.Bool
	l := serve(t, "127.0.0.1:0", &ready)
	for host, status := range map[string]int{
		"localhost": 200, "LOCALHOST:1": 200, "127.0.0.1": 200, "127.0.0.1:8255": 200, "127.8.8.8": 200, "[::1]:8255": 200, "[::1]": 200,
		"evil.example": 421, "evil.example:8255": 421, "localhost.evil.example": 421, "10.0.0.1": 421, "169.254.169.254": 421,
		"127.0.0.1.evil.example": 421, "0.0.0.0": 421, "[::]": 421,
	} {
		if resp, body := get(t, l, "GET", "/metrics", host); resp.StatusCode != status {
			t.Errorf("Host %s: %d %q, want %d", host, resp.StatusCode, body, status)
		}
	}
	socket := serve(t, "unix:"+socketPath(t), &ready)
	if resp, _ := get(t, socket, "GET", "/metrics", "anything"); resp.StatusCode != 200 {
		t.Errorf("a unix socket asks for a Host: %d", resp.StatusCode)
	}
}

func TestListenRefuses(t *testing.T) {
	t.Parallel()
	taken, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"0.0.0.0:0":                         "not a loopback address",
		":0":                                "not a loopback address",
		"[::]:0":                            "not a loopback address",
		"10.0.0.1:0":                        "not a loopback address",
		"example.com:0":                     "not a loopback address",
		"127.0.0.1":                         "missing port",
		"unix:relative.sock":                "not absolute",
		"unix:@abstract":                    "not absolute",
		"unix:/no/such/directory/a.sock":    "no such file or directory",
		"unix:/" + strings.Repeat("x", 200): "invalid argument",
		"unix:" + file:                      "file is not a socket",
		taken.Addr().String():               "address in use: another imds-bridge? see admin.listen",
	} {
		l, err := Listen(address)
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "admin.listen") {
			t.Errorf("%s: error %v, want it to hold %q", address, err, want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, []byte("precious")) {
		t.Errorf("the file in the way now holds %q, %v", b, err)
	}
}

func TestUnixSocketIsForItsUserAlone(t *testing.T) {
	path := socketPath(t)
	umask := syscall.Umask(0)
	defer syscall.Umask(umask)
	l, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file is still there: %v", err)
	}
}

func TestStaleUnixSocketIsReplaced(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	l, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:" + path); err == nil || !strings.Contains(err.Error(), "a process still listens there") || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second listener on a live socket: %v", err)
	}
	// As a process leaves it that was killed.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	var ready atomic.Bool
	if resp, _ := get(t, serve(t, "unix:"+path, &ready), "GET", "/healthz", "x"); resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// socketPath is short enough for a unix address, which t.TempDir may not be.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "a.sock")
}
