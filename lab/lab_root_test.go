//go:build root

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

const (
	imds4 = "169.254.169.254:80"
	imds6 = "[fd00:ec2::254]:80"
)

func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	return newLabBelow(t, "")
}

func newLabBelow(t *testing.T, parent string) *lab.Lab {
	t.Helper()
	l, err := lab.New(lab.Options{Parent: parent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func addContainer(t *testing.T, l *lab.Lab, name string) *lab.Namespace {
	t.Helper()
	n, err := l.AddContainer(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// greet answers every connection at the address with a greeting and the peer, sent with the given TTL.
func greet(t *testing.T, n *lab.Namespace, network, addr, greeting string, ttl int) {
	t.Helper()
	ln, err := n.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			setTTL(c, network, ttl)
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "%s %s", greeting, host)
			c.Close()
		}
	}()
}

func setTTL(c net.Conn, network string, ttl int) {
	raw, _ := c.(*net.TCPConn).SyscallConn()
	_ = raw.Control(func(fd uintptr) {
		if network == "tcp6" {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
			return
		}
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, ttl)
	})
}

func hear(n *lab.Namespace, addr string, patience time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := n.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	heard, err := io.ReadAll(c)
	return string(heard), err
}

func TestHostAndContainerReachIMDSByTheirOwnAddress(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	container := addContainer(t, l, "one")
	greet(t, l.IMDS(), "tcp4", imds4, "hello", 64)
	greet(t, l.IMDS(), "tcp6", imds6, "hello", 64)
	for _, n := range []*lab.Namespace{l.Host(), container} {
		for addr, own := range map[string]fmt.Stringer{imds4: n.Addr(), imds6: n.Addr6()} {
			if heard, err := hear(n, addr, 2*time.Second); err != nil || heard != "hello "+own.String() {
				t.Errorf("%s heard %q, %v", own, heard, err)
			}
		}
	}
}

func TestTTLOfOneReachesHostAndNoContainer(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	container := addContainer(t, l, "one")
	for network, addr := range map[string]string{"tcp4": imds4, "tcp6": imds6} {
		greet(t, l.IMDS(), network, addr, "near", 1)
		if heard, err := hear(l.Host(), addr, 2*time.Second); err != nil || !strings.HasPrefix(heard, "near") {
			t.Errorf("host over %s heard %q, %v", network, heard, err)
		}
		heard, err := hear(container, addr, 500*time.Millisecond)
		if !errors.Is(err, os.ErrDeadlineExceeded) || heard != "" {
			t.Errorf("container over %s heard %q, %v", network, heard, err)
		}
	}
}

func TestNoRouteLeadsOut(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	addContainer(t, l, "one")
	for _, out := range []string{"192.0.2.1", "8.8.8.8", "2001:db8::1", "169.254.170.2"} {
		for name, n := range map[string]*lab.Namespace{"host": l.Host(), "imds": l.IMDS()} {
			err := n.Do(func() error {
				_, err := netlink.RouteGet(net.ParseIP(out))
				return err
			})
			if !errors.Is(err, unix.ENETUNREACH) {
				t.Errorf("%s has a route to %s: %v", name, out, err)
			}
		}
	}
}

// With nothing listening, IMDS itself refuses: the call arrived there and nowhere else.
func TestSilentIMDSRefuses(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, addr := range []string{imds4, imds6} {
		if _, err := hear(l.Host(), addr, time.Second); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, want refusal", addr, err)
		}
	}
}

func TestTwoLabsDoNotMeet(t *testing.T) {
	t.Parallel()
	a, b := newLab(t), newLab(t)
	greet(t, a.IMDS(), "tcp4", imds4, "a", 64)
	greet(t, b.IMDS(), "tcp4", imds4, "b", 64)
	for want, l := range map[string]*lab.Lab{"a": a, "b": b} {
		if heard, err := hear(l.Host(), imds4, time.Second); err != nil || !strings.HasPrefix(heard, want+" ") {
			t.Errorf("lab %s heard %q, %v", want, heard, err)
		}
	}
	if a.Cgroup() == b.Cgroup() {
		t.Errorf("both labs have cgroup %s", a.Cgroup())
	}
}

// The shell reports where it is with its first command, so a later move would be seen as one.
func TestStartIsInNamespaceAndCgroupFromTheFirstMoment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	container := addContainer(t, l, "docker-0123.scope")
	tests := []struct {
		name   string
		start  func(*exec.Cmd) error
		in     *lab.Namespace
		cgroup string
	}{
		{"host", l.Host().Start, l.Host(), l.Cgroup()},
		{"host, outside", l.Host().StartOutside, l.Host(), filepath.Join(filepath.Dir(l.Cgroup()), "outside")},
		{"container", container.Start, container, filepath.Join(l.Cgroup(), "docker-0123.scope")},
	}
	for _, tt := range tests {
		var out strings.Builder
		cmd := exec.Command("sh", "-c", "grep ^0:: /proc/self/cgroup; readlink /proc/self/ns/net")
		cmd.Stdout = &out
		if err := tt.start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		cgroup, ns, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
		if !strings.HasSuffix(tt.cgroup, strings.TrimPrefix(cgroup, "0::")) || len(cgroup) < 10 {
			t.Errorf("%s: cgroup %s, want %s", tt.name, cgroup, tt.cgroup)
		}
		if want, _ := os.Readlink(tt.in.Path()); ns != want {
			t.Errorf("%s: namespace %s, want %s", tt.name, ns, want)
		}
	}
}

func TestNsenterTakesPath(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	out, err := exec.Command("nsenter", "--net="+l.Host().Path(), "readlink", "/proc/self/ns/net").CombinedOutput()
	if want, _ := os.Readlink(l.Host().Path()); err != nil || strings.TrimSpace(string(out)) != want {
		t.Errorf("nsenter is in %s, %v; want %s", out, err, want)
	}
}

func TestDoPassesOnErrorPanicAndGoexit(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	want := errors.New("mine")
	if err := l.Host().Do(func() error { return want }); err != want {
		t.Errorf("Do returned %v", err)
	}
	ended := make(chan any, 2)
	go func() {
		defer func() { ended <- recover() }()
		_ = l.Host().Do(func() error { panic("mine") })
	}()
	if got := <-ended; got != "mine" {
		t.Errorf("Do panicked with %v", got)
	}
	go func() {
		defer func() { ended <- "exited" }()
		_ = l.Host().Do(func() error { runtime.Goexit(); return nil })
		ended <- "went on"
	}()
	if got := <-ended; got != "exited" {
		t.Errorf("the caller of Do %v", got)
	}
}
