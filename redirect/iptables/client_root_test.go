//go:build root

package iptables

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

// patience is how long a test waits for what must happen. It is spent only by one that fails.
const patience = 30 * time.Second

func init() { roles["client"] = beClient }

// call is one call that a client makes, and how.
type call struct {
	To    netip.AddrPort
	V6    bool // by an IPv6 socket also to an IPv4 address
	Mark  uint32
	Times int           // this often, 0 being once
	Every time.Duration // from the beginning of one to that of the next
}

// sighting is what the client saw of one call.
type sighting struct {
	Began  time.Time
	Took   time.Duration
	Error  string
	Answer string
	PID    int
	Socket uint64
}

// process is a child of the test: this binary in a role.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *os.File
	json *json.Decoder
}

// startRole starts this binary in a role.
func startRole(t testing.TB, start func(*exec.Cmd) error, role string, task any, change ...func(*exec.Cmd)) *process {
	t.Helper()
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(t, role)
	cmd.Env = append(cmd.Env, taskVariable+"="+string(text))
	for _, f := range change {
		f(cmd)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := start(cmd); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, in: in, out: out.(*os.File), json: json.NewDecoder(out)}
	t.Cleanup(func() { _ = p.end() })
	return p
}

func command(t testing.TB, role string) *exec.Cmd {
	// Not by its path, which other users cannot reach.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GORACE=atexit_sleep_ms=0")
	if t, ok := t.(*testing.T); ok {
		cmd.Stderr = t.Output()
	}
	return cmd
}

func (p *process) read(t testing.TB, into any) {
	t.Helper()
	if err := p.out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if err := p.json.Decode(into); err != nil {
		t.Fatalf("process says nothing more: %v", err)
	}
}

func (p *process) next(t testing.TB) (s sighting) {
	t.Helper()
	p.read(t, &s)
	return s
}

// end closes the process's standard input and waits for its end.
func (p *process) end() error {
	p.in.Close()
	killer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer killer.Stop()
	if err := p.cmd.Wait(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func as(uid, gid uint32) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	}
}

// startCalls lets a process make calls from a namespace.
func startCalls(t testing.TB, in *lab.Namespace, c call, change ...func(*exec.Cmd)) *process {
	t.Helper()
	return startRole(t, in.Start, "client", c, change...)
}

// callFrom makes one call from a namespace.
func callFrom(t testing.TB, in *lab.Namespace, c call, change ...func(*exec.Cmd)) sighting {
	t.Helper()
	return startCalls(t, in, c, change...).next(t)
}

func beClient() error {
	var c call
	if err := json.Unmarshal([]byte(os.Getenv(taskVariable)), &c); err != nil {
		return err
	}
	for range max(c.Times, 1) {
		s := sighting{Began: time.Now(), PID: os.Getpid()}
		if err := c.make(&s); err != nil {
			s.Error = err.Error()
		}
		s.Took = time.Since(s.Began)
		if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
			return nil // the test has seen enough
		}
		time.Sleep(time.Until(s.Began.Add(c.Every)))
	}
	return nil
}

func (c call) make(s *sighting) error {
	family := unix.AF_INET
	if c.V6 || c.To.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if s.Socket, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return err
	}
	limit := unix.NsecToTimeval(int64(patience / 3))
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return err
		}
	}
	if c.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(c.Mark)); err != nil {
			return err
		}
	}
	if err := connect(fd, sockaddr(c.To, family)); err != nil {
		return err
	}
	s.Answer, err = hear(fd)
	return err
}

// connect waits for the connection also where a signal of Go's runtime comes between.
func connect(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	if !errors.Is(err, unix.EINTR) {
		return err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(patience.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			return unix.ETIMEDOUT
		}
		errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			return unix.Errno(errno)
		}
		return err
	}
}

func sockaddr(a netip.AddrPort, family int) unix.Sockaddr {
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// hear reads until the other end closes.
func hear(fd int) (string, error) {
	var heard []byte
	buffer := make([]byte, 512)
	for {
		n, err := unix.Read(fd, buffer)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return "", err
		case n == 0:
			return string(heard), nil
		default:
			heard = append(heard, buffer[:n]...)
		}
	}
}

// standIn listens in the place of IMDS, and answers with "imds" and the address called.
func standIn(t testing.TB, l *lab.Lab) {
	t.Helper()
	serveIMDS(t, l, func(c net.Conn) { fmt.Fprintf(c, "imds %s", c.LocalAddr()) })
}

// serveIMDS listens in the place of IMDS, and serves one connection after the other.
func serveIMDS(t testing.TB, l *lab.Lab, serve func(net.Conn)) {
	t.Helper()
	for _, at := range []netip.AddrPort{imds4, imds6} {
		listener, err := l.IMDS().Listen("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		t.Cleanup(func() { listener.Close(); <-ended })
		go func() {
			defer close(ended)
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				serve(c)
				c.Close()
			}
		}()
	}
}
