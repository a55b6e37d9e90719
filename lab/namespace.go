package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is one network namespace of a lab. It is safe for concurrent use.
type Namespace struct {
	cgroup  string // of what Start starts
	outside string // of what StartOutside starts
	addr4   netip.Addr
	addr6   netip.Addr

	mu     sync.RWMutex // guards handle against its end
	handle netns.NsHandle
	// work is done by the thread that made the namespace, which stays in it until done is closed.
	// Processes are started there, because a process with a parent death signal gets it when the
	// thread that forked it ends, not when the parent process does (prctl(2), PR_SET_PDEATHSIG).
	work  chan func()
	done  chan struct{}
	ended chan struct{}
	close func()
}

// newNamespace makes a namespace with its loopback up.
func (l *Lab) newNamespace(cgroup string) (*Namespace, error) {
	n := &Namespace{
		cgroup:  cgroup,
		outside: l.scratch.outside,
		work:    make(chan func()),
		done:    make(chan struct{}),
		ended:   make(chan struct{}),
	}
	made := make(chan error)
	onThread(func() {
		var err error
		n.handle, err = netns.New()
		made <- err
		if err == nil {
			n.serve()
		}
	})
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	n.close = sync.OnceFunc(func() {
		close(n.done)
		<-n.ended
		n.mu.Lock()
		defer n.mu.Unlock()
		n.handle.Close()
	})
	if err := n.Do(func() error { return prepare(l.ipv6) }); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// serve works until close. The thread stays locked to the goroutine, so it ends with it.
func (n *Namespace) serve() {
	defer close(n.ended)
	for {
		select {
		case f := <-n.work:
			f()
		case <-n.done:
			return
		}
	}
}

// Addr is the IPv4 address that calls from this namespace come from.
func (n *Namespace) Addr() netip.Addr { return n.addr4 }

// Addr6 is the IPv6 address that calls from this namespace come from; the zero Addr without IPv6.
func (n *Namespace) Addr6() netip.Addr { return n.addr6 }

// Path names the namespace for as long as this process and the lab live, as nsenter --net= takes it.
func (n *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.handle))
}

// Do runs f on an operating system thread that is in the namespace, and returns its error. Sockets
// that f opens stay there for good; goroutines that it starts are not in the namespace. A panic of
// f or a runtime.Goexit (as by t.FailNow) reaches the caller.
func (n *Namespace) Do(f func() error) error {
	return run(func() error { return enter(n, f) })
}

// join moves the calling thread into the namespace.
func (n *Namespace) join() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	select {
	case <-n.done:
		return ErrClosed
	default:
		return netns.Set(n.handle)
	}
}

// Listen announces on an address of the namespace. The listener outlives the lab.
func (n *Namespace) Listen(network, addr string) (l net.Listener, err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // neither IMDS nor the bridge speaks it
	err = n.Do(func() error {
		l, err = lc.Listen(context.Background(), network, addr)
		return err
	})
	return l, err
}

// DialContext connects from the namespace, as this process: from outside the scratch cgroup. The
// address must be numeric.
func (n *Namespace) DialContext(ctx context.Context, network, addr string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, err // a name would be resolved by other threads, in another namespace
	}
	var d net.Dialer
	err = n.Do(func() error {
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Start starts cmd in the namespace and in the scratch cgroup, never elsewhere first. The process
// is killed when the lab closes or this process dies, unless cmd asks for another Pdeathsig.
func (n *Namespace) Start(cmd *exec.Cmd) error { return n.start(cmd, n.cgroup) }

// StartOutside is [Namespace.Start] for a process that a hook on the scratch cgroup is not to see.
func (n *Namespace) StartOutside(cmd *exec.Cmd) error { return n.start(cmd, n.outside) }

func (n *Namespace) start(cmd *exec.Cmd, cgroup string) error {
	select {
	case <-n.done:
		return ErrClosed
	default:
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	defer dir.Close()
	var attr syscall.SysProcAttr
	if cmd.SysProcAttr != nil {
		attr = *cmd.SysProcAttr
	}
	if attr.Pdeathsig == 0 {
		attr.Pdeathsig = unix.SIGKILL
	}
	attr.UseCgroupFD, attr.CgroupFD = true, int(dir.Fd())
	cmd.SysProcAttr = &attr

	started := make(chan error)
	select {
	case n.work <- func() { started <- cmd.Start() }:
		return <-started
	case <-n.done:
		return ErrClosed
	}
}
