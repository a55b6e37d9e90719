//go:build root

package hook

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// taskVariable names the environment variable with what a role is to do, as JSON.
const taskVariable = "REDIRECT_TEST_TASK"

func init() { roles["client"] = beClient }

// call is one connect() that a client makes, and how.
type call struct {
	To     string // address and port
	First  string // address and port to connect the same socket to before, which must fail
	How    string // "": connect(); else a key of connects
	From   string // address and port to bind to first
	Device string // to bind to first
	V6Only bool
	Mark   int
	Comm   string // name of the thread
	Thread bool   // not from the first thread, but from a younger one
	Exec   bool   // from another program in the same process: exec() comes first
	Keep   bool   // do not wait for an answer, and close when standard input ends
	Hear   bool   // wait for an answer in spite of Keep
	Times  int    // this often, 0 being once
}

// sighting is what the client saw of one call.
type sighting struct {
	Error       string // name of the first error
	Peer, Local string // by getpeername and getsockname, right after the connection is there
	Answer      string
	PID, TID    int
	Socket      uint64 // cookie
	NetNSCookie uint64 // 0 before Linux 5.14
}

// connects are the ways to connect a socket.
var connects = map[string]func(fd int, to unix.Sockaddr) error{
	"":                     unix.Connect,
	"non-blocking":         connectNonBlocking,
	"fast open by sendto":  connectFastOpen,
	"fast open by connect": connectFastOpenLater,
	"io_uring":             func(fd int, to unix.Sockaddr) error { return connectUring(fd, to, 0) },
	"io_uring worker":      func(fd int, to unix.Sockaddr) error { return connectUring(fd, to, uringAsync) },
	"udp":                  unix.Connect,
	"udp without connect":  func(int, unix.Sockaddr) error { return nil },
}

// beClient makes the calls of its task.
func beClient() error {
	var calls []call
	if err := json.Unmarshal([]byte(os.Getenv(taskVariable)), &calls); err != nil {
		return err
	}
	kept := false
	for i, c := range calls {
		if c.Exec {
			calls[i].Exec = false
			return execInto(calls[i:])
		}
		for range max(c.Times, 1) {
			var s sighting
			onThread(c.Thread, func() { s = c.make() })
			if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
				return err
			}
		}
		kept = kept || c.Keep
	}
	if kept {
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	return nil
}

func execInto(task any) error {
	text, err := json.Marshal(task)
	if err != nil {
		return err
	}
	if err := os.Setenv(taskVariable, string(text)); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}

// onThread calls f on one thread; if that is asked for, on one that is younger than the process, so
// that the two can be told apart by their start.
func onThread(younger bool, f func()) {
	for called := false; !called; {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and never unlocked: the thread ends here
			if younger && startTick("thread-self") == startTick("self") {
				return
			}
			f()
			called = true
		}()
		<-done
	}
}

// startTick is the start time in /proc/<task>/stat: field 22, the 20th after the name.
func startTick(task string) string {
	stat, _ := os.ReadFile("/proc/" + task + "/stat")
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return fields[19]
}

// make makes the call, on the calling thread.
func (c call) make() (s sighting) {
	err := c.try(&s)
	if errno, ok := err.(unix.Errno); ok {
		s.Error = unix.ErrnoName(errno)
	} else if err != nil {
		s.Error = err.Error()
	}
	return s
}

func (c call) try(s *sighting) error {
	s.PID, s.TID = unix.Getpid(), unix.Gettid()
	if c.Comm != "" {
		if err := setName(c.Comm); err != nil {
			return err
		}
	}
	fd, to, err := c.socket()
	if err != nil {
		return err
	}
	if !c.Keep {
		defer unix.Close(fd)
	}
	if s.Socket, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		return err
	}
	s.NetNSCookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil && err != unix.ENOPROTOOPT { // known since Linux 5.14
		return err
	}
	if c.First != "" {
		_, first, err := sockaddr(c.First)
		if err != nil {
			return err
		}
		if err := unix.Connect(fd, first); err != unix.ENETUNREACH {
			return fmt.Errorf("the first connect returned %v", err)
		}
	}
	connect, ok := connects[c.How]
	if !ok {
		return fmt.Errorf("no way to connect by %q", c.How)
	}
	if err := connect(fd, to); err != nil {
		return err
	}
	if strings.HasPrefix(c.How, "udp") {
		return c.exchange(fd, to, s)
	}
	if err := s.look(fd); err != nil || c.Keep && !c.Hear {
		return err
	}
	return s.hear(fd)
}

// socket opens the socket as asked for.
func (c call) socket() (fd int, to unix.Sockaddr, err error) {
	typ := unix.SOCK_STREAM
	if strings.HasPrefix(c.How, "udp") {
		typ = unix.SOCK_DGRAM
	}
	family, to, err := sockaddr(c.To)
	if err != nil {
		return -1, nil, err
	}
	if fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, nil, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())}); err != nil {
		return -1, nil, err
	}
	if c.V6Only {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return -1, nil, err
		}
	}
	if c.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, c.Mark); err != nil {
			return -1, nil, err
		}
	}
	if c.Device != "" {
		if err := unix.BindToDevice(fd, c.Device); err != nil {
			return -1, nil, err
		}
	}
	if c.From != "" {
		_, from, err := sockaddr(c.From)
		if err != nil {
			return -1, nil, err
		}
		if err := unix.Bind(fd, from); err != nil {
			return -1, nil, err
		}
	}
	return fd, to, nil
}

func sockaddr(text string) (family int, sa unix.Sockaddr, err error) {
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return 0, nil, err
	}
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, nil
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}, nil
}

func (s *sighting) look(fd int) error {
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return err
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	s.Peer, s.Local = text(peer), text(local)
	return nil
}

func text(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String()
	}
	return ""
}

// hear reads until the other end closes.
func (s *sighting) hear(fd int) error {
	var heard []byte
	buffer := make([]byte, 512)
	for {
		n, err := unix.Read(fd, buffer)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			s.Answer = string(heard)
			return nil
		}
		heard = append(heard, buffer[:n]...)
	}
}

// exchange sends a datagram and receives one.
func (c call) exchange(fd int, to unix.Sockaddr, s *sighting) error {
	if c.How == "udp" {
		if _, err := unix.Write(fd, []byte("hello")); err != nil {
			return err
		}
	} else if err := unix.Sendto(fd, []byte("hello"), 0, to); err != nil {
		return err
	}
	buffer := make([]byte, 512)
	n, from, err := unix.Recvfrom(fd, buffer, 0)
	if err != nil {
		return err
	}
	s.Answer, s.Peer = string(buffer[:n]), text(from)
	return nil
}

func connectNonBlocking(fd int, to unix.Sockaddr) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	if err := unix.Connect(fd, to); err != unix.EINPROGRESS {
		return fmt.Errorf("a non-blocking connect returned %v", err)
	}
	if err := poll(fd, unix.POLLOUT); err != nil {
		return err
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if errno != 0 {
		return unix.Errno(errno)
	}
	return unix.SetNonblock(fd, false)
}

func poll(fd int, events int16) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, int(patience.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			return unix.ETIMEDOUT
		}
		return err
	}
}

// connectFastOpen waits for the answer besides: the data may be on its way with the first segment, and
// the socket is not connected yet.
func connectFastOpen(fd int, to unix.Sockaddr) error {
	if err := unix.Sendto(fd, []byte("hello"), unix.MSG_FASTOPEN, to); err != nil {
		return err
	}
	return poll(fd, unix.POLLIN)
}

func connectFastOpenLater(fd int, to unix.Sockaddr) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
		return err
	}
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte("hello")); err != nil {
		return err
	}
	return poll(fd, unix.POLLIN)
}

func setName(comm string) error {
	name := append([]byte(comm), 0)
	return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
}
