//go:build root

package watch

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// taskVariable names the environment variable with what a role is to do, as JSON.
const taskVariable = "WATCH_TEST_TASK"

func init() { roles["client"] = beClient }

// call is one connection that a client makes, and what it sends.
type call struct {
	To     string   // address and port; an IPv4 address in IPv6 form is for a dual-stack socket
	Send   []string // each by one write
	Repeat int      // so often, by a write each
	Cut    int      // by writes of so many bytes
	Method string   // of the requests; HEAD is answered without a body
	Reads  int      // answers, one after the other
	Mark   int
	Wait   bool          // for a line of standard input between connecting and sending
	Keep   bool          // do not close
	For    time.Duration // again and again for so long
	Every  time.Duration
}

// sighting is what the client saw of one call.
type sighting struct {
	Error    string
	Local    string
	Socket   uint64 // cookie
	Statuses []int
	Made     int // connections
}

// beClient makes the calls of its task.
func beClient() error {
	var calls []call
	if err := json.Unmarshal([]byte(os.Getenv(taskVariable)), &calls); err != nil {
		return err
	}
	input := bufio.NewReader(os.Stdin)
	report := json.NewEncoder(os.Stdout)
	for _, c := range calls {
		s, err := c.makeAll(input, report)
		if err != nil {
			s.Error = err.Error()
		}
		if err := report.Encode(s); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, input)
	return err
}

func (c call) makeAll(input *bufio.Reader, report *json.Encoder) (s sighting, err error) {
	begun := time.Now()
	for made := 1; ; made++ {
		if s, err = c.make(input, report); err != nil {
			return s, err
		}
		next := time.Duration(made) * c.Every
		if s.Made = made; next >= c.For {
			return s, nil
		}
		time.Sleep(time.Until(begun.Add(next)))
		if time.Since(begun) >= c.For { // it takes longer than it should
			return s, nil
		}
	}
}

// kept are the connections that are not to be closed.
var kept []net.Conn

func (c call) make(input *bufio.Reader, report *json.Encoder) (s sighting, err error) {
	conn, err := c.connect()
	if err != nil {
		return s, err
	}
	if c.Keep {
		kept = append(kept, conn)
	} else {
		defer conn.Close()
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return s, err
	}
	s.Local = conn.LocalAddr().String()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return s, err
	}
	if err := raw.Control(func(fd uintptr) {
		s.Socket, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
	}); err != nil {
		return s, err
	}
	if c.Wait {
		if err := report.Encode(s); err != nil {
			return s, err
		}
		if _, err := input.ReadString('\n'); err != nil {
			return s, err
		}
	}
	sent := make(chan error, 1)
	go func() { sent <- c.send(conn) }() // a server that is not listened to does not listen either
	answers := bufio.NewReader(conn)
	for range c.Reads {
		answer, err := http.ReadResponse(answers, &http.Request{Method: c.Method})
		if err != nil {
			return s, fmt.Errorf("read answer: %w", err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			return s, err
		}
		s.Statuses = append(s.Statuses, answer.StatusCode)
	}
	return s, <-sent
}

func (c call) send(conn net.Conn) error {
	for _, text := range slices.Repeat(c.Send, max(c.Repeat, 1)) {
		for size := len(text); text != ""; text = text[min(size, len(text)):] {
			if c.Cut > 0 {
				size = c.Cut
			}
			if _, err := io.WriteString(conn, text[:min(size, len(text))]); err != nil {
				return err
			}
		}
	}
	return nil
}

// connect makes the socket itself: package net takes IPv4 addresses in IPv6 form for IPv4 ones.
func (c call) connect() (net.Conn, error) {
	to, err := netip.ParseAddrPort(c.To)
	if err != nil {
		return nil, err
	}
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())})
	if to.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	// Each write is a segment of its own.
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return nil, err
	}
	if c.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, c.Mark); err != nil {
			return nil, err
		}
	}
	if err := unix.Connect(fd, sa); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(file)
}
