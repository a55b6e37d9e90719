package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/redirect"
)

// How long a self-check waits: on a host that works its connection arrives within a millisecond, and
// a child takes a few dozen to start.
const (
	selfCheckPatience      = 300 * time.Millisecond
	selfCheckChildPatience = 3 * time.Second
)

var errWentPast = errors.New("went past the bridge")

// selfCheck proves the redirection: a connection of our own to IMDS must arrive at our own listener,
// with the record of who made it. Nothing is sent on it: should it reach IMDS, no harm is done.
type selfCheck struct {
	mark    uint32        // of the socket, by which the hook tells it from other bridges' own; 0 for none
	port    uint16        // that the socket is bound to, by which rules tell it from others of our user; 0 for any
	socket  atomic.Uint64 // cookie of the socket that checks
	arrived chan struct{}
	// connected says that a connect() was seen, where none is to arrive. Nil where one is.
	connected func() bool
}

func newSelfCheck() *selfCheck { return &selfCheck{arrived: make(chan struct{}, 1)} }

// newCheckMark is a mark that no other bridge's self-check has: what tells bridges apart stands above
// the 16 bits that exempt them.
func newCheckMark(own uint32) uint32 { return own | (1+rand.Uint32N(1<<16-1))<<16 }

// saw is told of every connection that the listener accepted with a record.
func (s *selfCheck) saw(c redirect.Connection) {
	if c.Socket != 0 && s.socket.Load() == c.Socket {
		select {
		case s.arrived <- struct{}{}:
		default:
		}
	}
}

// run makes the connection on a socket of this process, and where that is outside of the cgroup that
// is redirected, on one that a child made inside.
func (s *selfCheck) run(ctx context.Context, cgroup string) error {
	err := s.fromHere(ctx)
	switch {
	case err != nil && s.port != 0:
		return fmt.Errorf("self-check: %w (did imds-bridge redirect install run in this network namespace, with --exempt-uid %d and the same redirect.listen?)", err, unix.Geteuid())
	case err == nil || cgroup == "":
		return wrapSelfCheck(err)
	}
	inside := s.fromChild(ctx, cgroup)
	if inside == nil {
		return nil
	}
	return wrapSelfCheck(fmt.Errorf("%w; from a child in %s: %w", err, cgroup, inside))
}

func wrapSelfCheck(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("self-check: a connection to IMDS did not reach the bridge: %w (imds-bridge doctor looks for firewall rules, routes and other programs in the way)", err)
}

func (s *selfCheck) fromHere(ctx context.Context) error {
	fd, err := newSocket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return s.connect(ctx, fd)
}

func newSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	return fd, nil
}

// connect connects a socket to IMDS and waits for it to arrive.
func (s *selfCheck) connect(ctx context.Context, fd int) error {
	if s.mark != 0 {
		if err := redirect.Exempt(fd, s.mark); err != nil {
			return err
		}
	}
	if s.port != 0 {
		if err := bind(fd, s.port); err != nil {
			return err
		}
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return fmt.Errorf("read socket cookie: %w", err)
	}
	s.socket.Store(cookie)
	// connect(2) waits no longer than a send would.
	patience := unix.NsecToTimeval(int64(selfCheckPatience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
		return fmt.Errorf("limit connect: %w", err)
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: imds.IPv4.As4(), Port: imds.Port})
	if s.connected != nil {
		return s.wasSeen()
	}
	if err != nil {
		if errors.Is(err, unix.EINPROGRESS) {
			err = os.ErrDeadlineExceeded // as connect(2) says it
		}
		return fmt.Errorf("connect to IMDS: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, selfCheckPatience)
	defer cancel()
	select {
	case <-s.arrived:
		return nil
	case <-ctx.Done():
		return errWentPast
	}
}

// bind gives a socket a source port, on the address that leads to IMDS: on another one the listener may have
// it. Nothing of the connection stays that would keep the next start from the port.
func bind(fd int, port uint16) error {
	way, err := net.Dial("udp4", netip.AddrPortFrom(imds.IPv4, imds.Port).String()) // sends nothing
	if err != nil {
		return fmt.Errorf("find the address that leads to IMDS: %w", err)
	}
	defer way.Close()
	from := unix.SockaddrInet4{Addr: way.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().As4(), Port: int(port)}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Bind(fd, &from),
	)
	if err != nil {
		return fmt.Errorf("take source port %d: %w", port, err)
	}
	return nil
}

// wasSeen goes by what the kernel counted: whether IMDS answers is another matter.
func (s *selfCheck) wasSeen() error {
	if s.connected() {
		return nil
	}
	return errors.New("was not seen")
}

// fromChild connects a socket that a child in the cgroup made: the hook goes by where that was.
func (s *selfCheck) fromChild(ctx context.Context, cgroup string) error {
	ctx, cancel := context.WithTimeout(ctx, selfCheckChildPatience)
	defer cancel()
	dir, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	ours, childs, err := socketpair()
	if err != nil {
		return err
	}
	defer ours.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", selfCheckVerb)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{childs}
	err = cmd.Start()
	childs.Close()
	if err != nil {
		return fmt.Errorf("start a child: %w", err)
	}
	fd, err := receiveSocket(ours)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return fmt.Errorf("get a socket of a child: %w", err)
	}
	defer unix.Close(fd)
	return s.connect(ctx, fd)
}

func socketpair() (ours, childs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "self-check"), os.NewFile(uintptr(fds[1]), "self-check child"), nil
}

// receiveSocket waits for a descriptor, or for the end of the child.
func receiveSocket(from *os.File) (int, error) {
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(from.Fd()), make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return -1, errors.Join(io.ErrUnexpectedEOF, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return fds[0], nil
}

const selfCheckVerb = "self-check"

// selfCheckCommand is the child's side: it makes a socket and hands it over. It is no verb for users.
func selfCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:    selfCheckVerb,
		Hidden: true,
		Args:   noArgs,
		RunE: func(*cobra.Command, []string) error {
			const parent = 3 // the first of ExtraFiles
			fd, err := newSocket()
			if err != nil {
				return err
			}
			return unix.Sendmsg(parent, []byte{0}, unix.UnixRights(fd), nil, 0)
		},
	}
}
