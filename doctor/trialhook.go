package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
)

// scratchName begins the names of the cgroups that trials make.
const scratchName = "imds-bridge-doctor-"

// tryHook proves the hook: attached to a scratch cgroup, it must bring a child's connect() to
// 169.254.169.254:80 to a listener on loopback, with the kernel's record of the child's socket.
func (h *host) tryHook(ctx context.Context) error {
	if !h.considersHook() {
		return notTried("redirector is %s", h.options.Redirector)
	}
	if missing := h.capabilities.missing(hook.Capabilities); len(missing) > 0 {
		return notTried("it takes %s", strings.Join(missing, " "))
	}
	cgroup, err := h.cgroup()
	if err != nil {
		return notTried("there is no cgroup2 to attach to")
	}
	scratch, err := makeScratch(cgroup.Path)
	if err != nil {
		return notTried("a scratch cgroup cannot be made: %s", plain(err))
	}
	err = h.tryHookOn(ctx, scratch)
	if err != nil && ctx.Err() != nil {
		err = notTried("the host is too busy to do it in time: %s", err)
	}
	return errors.Join(err, removeScratch(scratch))
}

// makeScratch makes a cgroup below parent, and takes away those of doctors that were killed.
func makeScratch(parent string) (string, error) {
	left, _ := filepath.Glob(filepath.Join(parent, scratchName+"*"))
	for _, dir := range left {
		if s, err := os.Stat(dir); err == nil && time.Since(s.ModTime()) > time.Minute {
			_ = os.Remove(dir) // in use, it stays
		}
	}
	dir := filepath.Join(parent, scratchName+strconv.Itoa(os.Getpid()))
	return dir, os.Mkdir(dir, 0o755)
}

// removeScratch waits for the child to be gone.
func removeScratch(dir string) error {
	for deadline := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove the scratch cgroup: %w", err)
		}
	}
}

func (h *host) tryHookOn(ctx context.Context, scratch string) error {
	l, err := listenLoopback(ctx)
	if err != nil {
		return err
	}
	defer l.Close()
	attached, err := hook.Attach(hook.Options{
		Cgroup: scratch, Listen: l.Addr().(*net.TCPAddr).AddrPort(),
		Mark: h.options.Mark, Heartbeat: time.Minute, Connections: 16,
	})
	if err != nil {
		return err
	}
	defer attached.Close()

	child, err := h.startChild(ctx)
	if err != nil {
		return err
	}
	defer child.end()
	// Not started there, which takes Linux 5.7: it waits for the word before it makes its socket.
	if err := moveTo(scratch, child.pid()); err != nil {
		return err
	}
	cookie, err := child.connect()
	if err != nil {
		return fmt.Errorf("%w (nothing was sent)", err)
	}
	_ = l.SetDeadline(time.Now().Add(time.Second))
	conn, err := l.Accept()
	if err != nil {
		return fmt.Errorf("the connection did not arrive: %s", plain(err))
	}
	defer conn.Close()
	return isRecordOf(cookie, func() (redirect.Connection, error) { return attached.Lookup(conn) })
}

func isRecordOf(cookie uint64, lookup func() (redirect.Connection, error)) error {
	c, err := lookup()
	switch {
	case err != nil:
		return fmt.Errorf("the connection arrived, but: %w", err)
	case c.Socket != cookie:
		return fmt.Errorf("a connection arrived, of another socket (%d, not %d)", c.Socket, cookie)
	case c.Original.Addr().Unmap() != imds.IPv4 || c.Original.Port() != imds.Port:
		return fmt.Errorf("the connection arrived, recorded as one to %s", c.Original)
	default:
		return nil
	}
}

func listenLoopback(ctx context.Context) (*net.TCPListener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	return l.(*net.TCPListener), nil
}

func moveTo(cgroup string, pid int) error {
	err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	if err != nil {
		return fmt.Errorf("move a child into the scratch cgroup: %w", err)
	}
	return nil
}

// child is a process that does [Connect].
type child struct {
	in    io.WriteCloser
	lines *bufio.Reader
	wait  func() error
	id    int
}

func (h *host) startChild(ctx context.Context) (*child, error) {
	cmd := h.options.Child(ctx)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a child: %w", err)
	}
	return &child{in: in, lines: bufio.NewReader(out), wait: cmd.Wait, id: cmd.Process.Pid}, nil
}

func (c *child) pid() int { return c.id }

// connect lets the child connect, and returns its socket's cookie.
func (c *child) connect() (cookie uint64, err error) {
	if _, err := io.WriteString(c.in, goAhead); err != nil {
		return 0, fmt.Errorf("tell the child to connect: %w", err)
	}
	line, err := c.lines.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("the child said nothing: %w", err)
	}
	number, outcome, _ := strings.Cut(strings.TrimSpace(line), " ")
	if outcome != "connected" {
		return 0, fmt.Errorf("the child's connect() to %s:%d was not redirected: %s", imds.IPv4, imds.Port, outcome)
	}
	return strconv.ParseUint(number, 10, 64)
}

// end waits for the child's end, which comes with that of its input.
func (c *child) end() {
	c.in.Close()
	_ = c.wait()
}

func checkHookTrial(_ context.Context, h *host) []Finding {
	if !h.considersHook() {
		return nil
	}
	err := h.hookRun()
	switch {
	case err == nil:
		return []Finding{{Status: OK, Concerns: EBPF, Found: fmt.Sprintf("a child's connect() to %s:%d came to a listener of ours, with its record", imds.IPv4, imds.Port)}}
	case errors.Is(err, errNotTried):
		return []Finding{{Status: Unknown, Concerns: EBPF, Found: err.Error(), Means: "whether the hook works here is not proven", Remedy: "run the doctor on the host, as root"}}
	case errors.Is(err, unix.EPERM):
		return []Finding{{Status: Fail, Concerns: EBPF, Found: err.Error(), Means: "the hook does not work here", Remedy: "look at the findings on capabilities, seccomp, lockdown and hooks"}}
	default:
		return []Finding{{Status: Fail, Concerns: EBPF, Found: err.Error(), Means: "the hook does not work here", Remedy: "the findings above may say why; else report it"}}
	}
}
