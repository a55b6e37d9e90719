//go:build root

package owner

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

var (
	imds4 = netip.MustParseAddrPort("169.254.169.254:80")
	imds6 = netip.MustParseAddrPort("[fd00:ec2::254]:80")
)

// patience is how long a test waits for what must happen. It is spent only by one that fails.
const patience = 30 * time.Second

func newLab(t testing.TB) *lab.Lab {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, at := range []netip.AddrPort{imds4, imds6} {
		hold(t, l.IMDS(), at)
	}
	return l
}

// hold accepts connections and keeps them, in the place of IMDS.
func hold(t testing.TB, n *lab.Namespace, at netip.AddrPort) {
	t.Helper()
	listener, err := n.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-ended })
	go func() {
		defer close(ended)
		var kept []net.Conn
		for {
			c, err := listener.Accept()
			if err != nil {
				break
			}
			kept = append(kept, c)
		}
		for _, c := range kept {
			c.Close()
		}
	}()
}

// newFinder returns a Finder whose own namespace is n.
func newFinder(t testing.TB, n *lab.Namespace, change ...func(*Options)) (f *Finder) {
	t.Helper()
	o := Options{Timeout: patience}
	for _, c := range change {
		c(&o)
	}
	if err := n.Do(func() (err error) {
		f, err = New(o)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// client is a process that holds a connection until its end.
type client struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Reader
	local netip.AddrPort
	heir  int // the pid of the child that has the socket too
}

// dial is what a client does.
type dial struct {
	To   netip.AddrPort
	V6   bool           // by an IPv6 socket also to an IPv4 address
	From netip.AddrPort // zero: the kernel's choice
	// Heir is a child: "stay" has the socket too, "orphan" has it alone, "others" are many that come
	// and go, and do not get it.
	Heir string
	// Exec is another program in the same process before the connect.
	Exec bool
}

const taskVariable = "OWNER_TEST_TASK"

func start(t testing.TB, n *lab.Namespace, d dial, change ...func(*exec.Cmd)) *client {
	t.Helper()
	cmd := command(t, "client", d)
	for _, f := range change {
		f(cmd)
	}
	c := &client{cmd: cmd}
	var err error
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewReader(out)
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	text, err := c.lines.ReadString('\n')
	if err != nil {
		t.Fatalf("client says nothing: %v", err)
	}
	fields := strings.Fields(text)
	c.local = netip.MustParseAddrPort(fields[0])
	if len(fields) > 1 {
		if _, err := fmt.Sscan(fields[1], &c.heir); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *client) end() {
	c.stdin.Close()
	_ = c.cmd.Wait()
}

func (c *client) pid() uint32 { return uint32(c.cmd.Process.Pid) }

func command(t testing.TB, role string, task any) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role, taskVariable+"="+string(text),
		"GORACE=atexit_sleep_ms=0") // or the race detector keeps each for a second
	if t, ok := t.(*testing.T); ok {
		cmd.Stderr = t.Output()
	}
	return cmd
}

func as(uid, gid uint32) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	}
}

func init() {
	if os.Getenv(roleVariable) != "" {
		runtime.LockOSThread() // to the thread that leads the process: children are its
	}
	roles["client"] = beClient
	roles["stay"] = func() error { _, err := io.Copy(io.Discard, os.Stdin); return err }
	roles["end"] = func() error { return nil }
}

func beClient() error {
	var d dial
	if err := json.Unmarshal([]byte(os.Getenv(taskVariable)), &d); err != nil {
		return err
	}
	if d.Exec {
		d.Exec = false
		text, err := json.Marshal(d)
		if err != nil {
			return err
		}
		if err := os.Setenv(taskVariable, string(text)); err != nil {
			return err
		}
		return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}
	fd, err := d.connect()
	if err != nil {
		return err
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	line := addrPort(local).String()
	switch d.Heir {
	case "":
	case "others":
		go startOthers()
	default:
		pid, err := d.fork(fd)
		if err != nil {
			return err
		}
		line += fmt.Sprintf(" %d", pid)
	}
	fmt.Println(line)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func (d dial) connect() (int, error) {
	family := unix.AF_INET
	if d.V6 || d.To.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if d.From.IsValid() {
		if err := unix.Bind(fd, sockaddr(d.From, family)); err != nil {
			return -1, err
		}
	}
	return fd, unix.Connect(fd, sockaddr(d.To, family))
}

// startOthers starts children one after the other, until the end of the process.
func startOthers() {
	for {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), roleVariable+"=end")
		_ = cmd.Run()
	}
}

// fork starts a child that has the socket.
func (d dial) fork(fd int) (int, error) {
	role := d.Heir
	if role == "orphan" {
		role = "stay"
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stdin = os.Stdin
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "socket")}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if d.Heir == "orphan" {
		return cmd.Process.Pid, unix.Close(fd)
	}
	return cmd.Process.Pid, nil
}

func sockaddr(a netip.AddrPort, family int) unix.Sockaddr {
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func find(t testing.TB, f *Finder, c *client, server netip.AddrPort) redirect.Connection {
	t.Helper()
	found, err := f.Find(context.Background(), c.local, server)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		t.Fatal(err)
	}
	return s.Ino
}

func expectError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

// count is how many are under way.
func (l *looks) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all
}
