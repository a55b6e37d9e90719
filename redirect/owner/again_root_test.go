//go:build root

package owner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

// moody is a process that holds connections, and changes when it is told to.
type moody struct {
	*exec.Cmd
	stdin io.WriteCloser
	said  *bufio.Reader
	local netip.AddrPort // of its latest connection
}

func startMoody(t *testing.T, n *lab.Namespace) *moody {
	t.Helper()
	m := &moody{Cmd: command(t, "moody", nil)}
	var err error
	if m.stdin, err = m.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := m.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.said = bufio.NewReader(out)
	if err := n.Start(m.Cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.end)
	m.tell(t, "connect")
	return m
}

func (m *moody) end() { m.stdin.Close(); _ = m.Wait() }

// tell has the process do something, which is done when tell returns.
func (m *moody) tell(t *testing.T, do string) {
	t.Helper()
	if _, err := io.WriteString(m.stdin, do+"\n"); err != nil {
		t.Fatal(err)
	}
	said, err := m.said.ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", do, err)
	}
	if at, err := netip.ParseAddrPort(strings.TrimSpace(said)); err == nil {
		m.local = at
	}
}

// find leaves out the socket's cookie, which is not told each time.
func (m *moody) find(t *testing.T, f *Finder) redirect.Connection {
	t.Helper()
	c, err := f.Find(context.Background(), m.local, imds4)
	if err != nil {
		t.Fatal(err)
	}
	c.Socket = 0
	return c
}

func init() { roles["moody"] = beMoody }

// moodySockets are those of a moody process.
var moodySockets []int

func beMoody() error {
	if len(os.Args) > 1 { // after exec
		fmt.Println()
	}
	for in := bufio.NewReader(os.Stdin); ; {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		do, argument, _ := strings.Cut(strings.TrimSpace(line), " ")
		said, err := change(do, argument)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", do, err)
		}
		fmt.Println(said)
	}
}

var child *exec.Cmd

func change(do, argument string) (string, error) {
	switch do {
	case "connect":
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		if err := unix.Connect(fd, sockaddr(imds4, unix.AF_INET)); err != nil {
			return "", err
		}
		moodySockets = append(moodySockets, fd)
		local, err := unix.Getsockname(fd)
		return addrPort(local).String(), err
	case "hold-up":
		return "", holdUp(moodySockets)
	case "rename":
		name := append([]byte(argument), 0)
		return "", os.WriteFile("/proc/self/comm", name, 0)
	case "exec":
		if err := bequeath(); err != nil {
			return "", err
		}
		return "", syscall.Exec("/proc/self/exe", append(os.Args, "again"), os.Environ())
	case "spawn":
		if err := bequeath(); err != nil {
			return "", err
		}
		child = exec.Command("/proc/self/exe", "again")
		child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
		err := child.Run()
		return "", errors.Join(err, io.EOF)
	case "join":
		return "", os.WriteFile(filepath.Join(argument, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	case "fork":
		child = exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), roleVariable+"=stay")
		if _, err := child.StdinPipe(); err != nil { // it stays until it is killed
			return "", err
		}
		if argument == "heir" {
			fd, err := unix.FcntlInt(uintptr(moodySockets[0]), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return "", err
			}
			socket := os.NewFile(uintptr(fd), "socket")
			defer socket.Close()
			child.ExtraFiles = []*os.File{socket}
		}
		return "", child.Start()
	case "reap":
		_ = child.Process.Kill()
		_ = child.Wait()
		return "", nil
	case "setgid":
		gid, err := strconv.Atoi(argument)
		if err != nil {
			return "", err
		}
		return "", syscall.Setgid(gid)
	}
	return "", errors.New("not known")
}

// holdUp has the kernel lock sockets and not unlock them: it sends from memory that is never filled in.
func holdUp(fds []int) error {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	faults, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return errno
	}
	// As in linux/userfaultfd.h.
	const (
		uffdioAPI      = 0xc018aa3f
		uffdioRegister = 0xc020aa00
		version        = 0xaa
		missing        = 1
	)
	api := [3]uint64{version}
	region := [4]uint64{uint64(uintptr(unsafe.Pointer(&page[0]))), uint64(len(page)), missing}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, faults, uffdioAPI, uintptr(unsafe.Pointer(&api))); errno != 0 {
		return errno
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, faults, uffdioRegister, uintptr(unsafe.Pointer(&region))); errno != 0 {
		return errno
	}
	for _, fd := range fds {
		go func() { _, _ = unix.Write(fd, page) }()
	}
	time.Sleep(100 * time.Millisecond)
	return nil
}

// bequeath leaves the sockets to the next program.
func bequeath() error {
	for _, fd := range moodySockets {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	return nil
}

// acquaint has a process found until it is kept, and tells what it is.
func acquaint(t *testing.T, f *Finder, m *moody) redirect.Connection {
	t.Helper()
	first := m.find(t, f)
	for range 2 {
		if c := m.find(t, f); c != first {
			t.Fatalf("found\n%+v, then\n%+v", first, c)
		}
	}
	// Another lab may have a container of the same address: then each call is looked at in full.
	c, ok := f.again(m.local, imds4)
	c.Socket = 0
	if ok && c != first || !ok && first.OwnNetNS {
		t.Fatalf("found\n%+v again (%t), before\n%+v", c, ok, first)
	}
	return first
}

// What changes about a process that is known is seen a moment later, and another program at once.
func TestKnownProcessIsToldAsItIsNow(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	box := container(t, l, "one")
	for where, n := range map[string]*lab.Namespace{"host": l.Host(), "container": box} {
		t.Run(where, func(t *testing.T) {
			f := newFinder(t, l.Host())
			m := startMoody(t, n)
			was := acquaint(t, f, m)

			m.tell(t, `rename back\slash`)
			time.Sleep(maxAge)
			want := was
			want.Comm = `back\slash`
			if c := m.find(t, f); c != want {
				t.Errorf("renamed:\n%+v, want\n%+v", c, want)
			}
			m.tell(t, "setgid 23456")
			time.Sleep(maxAge)
			want.GID = 23456
			if c := m.find(t, f); c != want {
				t.Errorf("of another group:\n%+v, want\n%+v", c, want)
			}
			m.tell(t, "exec")
			c := m.find(t, f)
			if c.ExecID == was.ExecID || c.PID != was.PID || c.Started != was.Started {
				t.Errorf("another program:\n%+v, was\n%+v", c, was)
			}
			acquaint(t, f, m)
		})
	}
}

// Not beside other tests: their containers have the same addresses.
func TestKnownProcessThatMovesIsToldInItsNewCgroup(t *testing.T) {
	l := newLab(t)
	box := container(t, l, "one")
	other := filepath.Join(l.Cgroup(), "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(other) })
	for where, n := range map[string]*lab.Namespace{"host": l.Host(), "container": box} {
		t.Run(where, func(t *testing.T) {
			f := newFinder(t, l.Host())
			m := startMoody(t, n)
			acquaint(t, f, m)
			m.tell(t, "join "+other)
			time.Sleep(maxAge)
			for n := range 3 {
				if n > 0 {
					m.tell(t, "connect")
				}
				if c := m.find(t, f); c.CgroupID != inode(t, other) {
					t.Errorf("cgroup %d, want %d", c.CgroupID, inode(t, other))
				}
			}
		})
	}
}

func TestKnownProcessThatSharesItsSocketIsAmbiguous(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	m := startMoody(t, l.Host())
	was := acquaint(t, f, m)

	m.tell(t, "fork") // a child without it
	if c := m.find(t, f); c != was {
		t.Errorf("found\n%+v, want\n%+v", c, was)
	}
	m.tell(t, "reap")
	m.tell(t, "fork heir")
	if c := m.find(t, f); !c.Ambiguous || c.PID != was.PID {
		t.Errorf("found\n%+v, want it ambiguous", c)
	}
	m.tell(t, "reap")
	if c := m.find(t, f); c != was {
		t.Errorf("found\n%+v, want\n%+v", c, was)
	}
}

// What is kept of a process is of that one, whoever has its number.
func TestKeptProcessIsNotTakenForAnother(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	m := startMoody(t, l.Host())
	acquaint(t, f, m)
	s := &search{Finder: f, ctx: context.Background()}
	for _, state := range []string{"alive", "dead"} {
		other := startMoody(t, l.Host())
		acquaint(t, f, other)
		k, ok := f.kept.Get(other.Process.Pid)
		if !ok {
			t.Fatal("not kept")
		}
		if state == "dead" {
			other.end()
		}
		sock, err := s.own.find(f, m.local, imds4)
		if err != nil {
			t.Fatal(err)
		}
		h, ok := s.knownHolder(user{sock.uid, f.netns}, sock.link())
		if !ok || h.pid != m.Process.Pid {
			t.Fatalf("the holder is %+v", h)
		}
		f.kept.Remove(h.pid)
		f.kept.Add(h.pid, k) // as if it had the number of the other
		if p, ok := s.unchanged(h, sock, true); ok {
			t.Errorf("%s: %+v has the other's socket", state, p)
		}
		if c := m.find(t, f); c.PID != uint32(m.Process.Pid) || c.Ambiguous {
			t.Errorf("%s: found %+v", state, c)
		}
	}
}

// A process with many calls at once is looked through for the first one.
func TestManySocketsOfOneProcessAreLearnedAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	m := startMoody(t, l.Host())
	acquaint(t, f, m)
	var all []netip.AddrPort
	for range 20 {
		m.tell(t, "connect")
		all = append(all, m.local)
	}
	for i, local := range all {
		if i > 0 {
			if c, ok := f.again(local, imds4); !ok || c.PID != uint32(m.Process.Pid) {
				t.Errorf("socket %d: %+v, %t", i, c, ok)
			}
		}
		m.local = local
		m.find(t, f)
	}
}

// A child that is known has a socket of its parent's besides.
func TestKnownProcessIsNotTakenForItsParent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	m := startMoody(t, l.Host())
	parents := m.local
	m.tell(t, "spawn") // who does from now on what m is told
	m.tell(t, "connect")
	was := acquaint(t, f, m)
	if was.PPID != uint32(m.Process.Pid) {
		t.Fatalf("found %+v, want the child of %d", was, m.Process.Pid)
	}
	m.tell(t, "connect")
	m.find(t, f) // by a look at all that the child has
	if c, err := f.Find(context.Background(), parents, imds4); err != nil || !c.Ambiguous || c.PID != was.PPID {
		t.Errorf("the parent's socket is of %+v (%v)", c, err)
	}
}

// From Linux 5.15 the kernel waits for a socket's lock to tell its addresses. One process hangs one look, whatever is known of
// it and however many of its sockets it holds up.
func TestProcessThatHoldsUpItsSocketsHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	box := container(t, l, "one")
	for where, n := range map[string]*lab.Namespace{"host": l.Host(), "container": box} {
		for hostile, calls := range map[string]int{"kept": 3, "met": 1, "not known": 0} {
			t.Run(where+", "+hostile, func(t *testing.T) {
				f := newFinder(t, l.Host())
				m, other := startMoody(t, n), startMoody(t, n)
				for range calls {
					m.find(t, f)
				}
				for range 4 {
					m.tell(t, "connect")
				}
				if calls > 0 {
					m.find(t, f) // by its latest
				}
				m.tell(t, "hold-up")
				for range 2 * maxSearches {
					for _, who := range []*moody{other, m} {
						began := time.Now()
						if c := who.find(t, f); c.PID != uint32(who.Process.Pid) || c.Ambiguous {
							t.Errorf("found %+v, want %d", c, who.Process.Pid)
						}
						if took := time.Since(began); took > defaultTimeout {
							t.Errorf("it took %s", took)
						}
					}
					other.tell(t, "connect")
				}
				if n := f.looks.count(); n > 1 {
					t.Errorf("%d wait for one process", n)
				}
			})
		}
	}
}

func TestNoMoreThanSomeProcessesAreKept(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	for range maxKept + 2 {
		acquaint(t, f, startMoody(t, l.Host()))
	}
	if n := f.kept.Len(); n != maxKept {
		t.Errorf("%d are kept, want %d", n, maxKept)
	}
}

// Descriptors that calls need are not kept from them, and callers are found all the same.
func TestKeptFilesAreGivenUpWhenDescriptorsAreShort(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	f := newFinder(t, l.Host())
	m := startMoody(t, l.Host())
	want := acquaint(t, f, m)
	k, ok := f.kept.Get(m.Process.Pid)
	if !ok {
		t.Fatal("nobody is kept")
	}
	f.Spare()
	if f.kept.Len() != 0 || !k.gone || k.memory != -1 {
		t.Errorf("%d are kept, of the one %+v", f.kept.Len(), k)
	}
	for range 3 {
		if c := m.find(t, f); c != want {
			t.Errorf("found\n%+v, want\n%+v", c, want)
		}
	}
	if f.kept.Len() != 0 {
		t.Error("somebody is kept")
	}
	longAgo := time.Now().Add(-2 * sparing)
	f.spared.Store(&longAgo)
	m.find(t, f)
	if f.kept.Len() != 1 {
		t.Error("nobody is kept any longer")
	}
}
