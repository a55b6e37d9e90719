package main

import (
	"bytes"
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// upstreamRole is a metadata service that requires tokens and costs next to nothing: four system
// calls for each connection, which it closes after the answer, as IMDS does.
func upstreamRole([]string) error {
	debug.SetGCPercent(-1) // the loop allocates nothing worth collecting
	l, err := listenForData()
	if err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		if n, err := unix.Read(fd, buf); err == nil && n > 0 {
			_, _ = unix.Write(fd, reply(buf[:n])) // who has gone away needs no answer
		}
		unix.Close(fd)
	}
}

// listenForData returns a listener that hands out connections whose request has come already, so
// that one loop can serve them one after the other.
func listenForData() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return -1, fmt.Errorf("set up the listener: %w", err)
		}
	}
	if err := unix.Bind(fd, socketAddr(imdsAddr)); err != nil {
		return -1, fmt.Errorf("bind to %s: %w", imdsAddr, err)
	}
	return fd, unix.Listen(fd, 4096)
}

func reply(request []byte) []byte {
	switch {
	case bytes.HasPrefix(request, []byte("PUT ")):
		return granted
	case bytes.Contains(request, []byte(token)):
		return success
	default:
		return refused
	}
}
