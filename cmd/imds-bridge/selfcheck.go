package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/redirect"
)

// How long a self-check waits for its connection to arrive: on a host that works it takes a
// millisecond from within the process, and a few dozen from a child.
const (
	selfCheckPatience      = 300 * time.Millisecond
	selfCheckChildPatience = 3 * time.Second
)

var errWentPast = errors.New("went past the bridge")

// selfCheck proves the hook: a connection of our own to IMDS must arrive at our own listener,
// with the kernel's record of who made it.
type selfCheck struct {
	socket  atomic.Uint64 // cookie of the socket that checks
	arrived chan struct{}
}

func newSelfCheck() *selfCheck { return &selfCheck{arrived: make(chan struct{}, 1)} }

// saw is told of every connection that the listener accepted with a record.
func (s *selfCheck) saw(c redirect.Connection) {
	if s.socket.Load() == c.Socket {
		select {
		case s.arrived <- struct{}{}:
		default:
		}
	}
}

// run makes the connection: from this process, and where it is outside of the cgroup that is
// redirected, from a child inside. Nothing is sent on it: should it reach IMDS, no harm is done.
func (s *selfCheck) run(ctx context.Context, cgroup string) error {
	err := s.fromHere(ctx)
	if err == nil {
		return nil
	}
	inside := s.fromChild(ctx, cgroup)
	if inside == nil {
		return nil
	}
	return fmt.Errorf("self-check: a connection to IMDS did not reach the bridge: %w; from a child in %s: %w "+
		"(look for firewall rules on the listener's address, and for other programs on the hook: bpftool cgroup tree)", err, cgroup, inside)
}

func (s *selfCheck) fromHere(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, selfCheckPatience)
	defer cancel()
	c, err := dialIMDS(ctx, func(cookie uint64) error { s.socket.Store(cookie); return nil })
	if err == nil {
		defer c.Close()
	}
	return errors.Join(err, s.wait(ctx))
}

func (s *selfCheck) wait(ctx context.Context) error {
	select {
	case <-s.arrived:
		return nil
	case <-ctx.Done():
		return errWentPast
	}
}

// fromChild lets a child connect that tells us its socket first.
func (s *selfCheck) fromChild(ctx context.Context, cgroup string) error {
	ctx, cancel := context.WithTimeout(ctx, selfCheckChildPatience)
	defer cancel()
	dir, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", selfCheckVerb)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	cmd.Env = []string{}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	defer func() { _ = cmd.Wait() }() // what it found out has arrived, or has not
	defer in.Close()                  // the child ends with its input
	var cookie uint64
	if _, err := fmt.Fscanln(out, &cookie); err != nil {
		return fmt.Errorf("read its socket: %w", err)
	}
	s.socket.Store(cookie)
	if _, err := io.WriteString(in, "connect\n"); err != nil {
		return err
	}
	return s.wait(ctx)
}

const selfCheckVerb = "self-check"

// selfCheckCommand is the child's side. It is no verb for users.
func selfCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:    selfCheckVerb,
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := bufio.NewReader(cmd.InOrStdin())
			ctx, cancel := context.WithTimeout(cmd.Context(), selfCheckChildPatience)
			defer cancel()
			c, err := dialIMDS(ctx, func(cookie uint64) error {
				fmt.Fprintln(cmd.OutOrStdout(), cookie)
				line, err := in.ReadString('\n')
				if strings.TrimSpace(line) != "connect" {
					return errors.Join(errWentPast, err)
				}
				return nil
			})
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = in.ReadString('\n') // until the parent has seen it
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		},
	}
}

// dialIMDS connects to IMDS. before is given the socket's cookie, and may stop it.
func dialIMDS(ctx context.Context, before func(cookie uint64) error) (net.Conn, error) {
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var cookie uint64
		var err error
		if controlErr := c.Control(func(fd uintptr) {
			cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
		}); controlErr != nil || err != nil {
			return errors.Join(controlErr, err)
		}
		return before(cookie)
	}}
	return dialer.DialContext(ctx, "tcp4", fmt.Sprintf("%s:%d", imds.IPv4, imds.Port))
}
