package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Listen opens address, which is host:port with a loopback host, or unix: and an absolute path.
//
// A unix socket is made with mode 0600 and removed when the listener closes. One that a dead
// process left behind is replaced; one that still answers is not.
func Listen(address string) (net.Listener, error) {
	var l net.Listener
	var err error
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		l, err = listenUnix(path)
	} else {
		l, err = listenLoopback(address)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: address in use: another imds-bridge? see admin.listen: %w", address, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: see admin.listen: %w", address, err)
	}
	return l, nil
}

func listenLoopback(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host == "localhost" {
		host = "127.0.0.1" // rather than what a resolver says
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return nil, errors.New("host is not a loopback address")
	}
	return net.Listen("tcp", net.JoinHostPort(host, port))
}

func listenUnix(path string) (net.Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New("path of a unix socket is not absolute")
	}
	l, err := bindUnix(path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	if removeErr := removeStale(path); removeErr != nil {
		return nil, fmt.Errorf("%w: %w", err, removeErr)
	}
	return bindUnix(path)
}

// bindUnix sets the mode on the socket before bind, which passes it on to the file: at no moment
// can another user connect, and the umask, which is the whole process's, stays as it is.
func bindUnix(path string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if controlErr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); controlErr != nil {
			return controlErr
		}
		return err
	}}
	return lc.Listen(context.Background(), "unix", path)
}

// removeStale removes the socket file of a process that listens no more.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("file is not a socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
		return errors.New("a process still listens there")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
