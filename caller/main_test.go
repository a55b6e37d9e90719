package caller

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/leaktest"
)

// roleVariable makes a process of this test binary play a caller.
const roleVariable = "CALLER_TEST_ROLE"

// raceExit spares a child the second that the race detector waits at its end.
const raceExit = "GORACE=atexit_sleep_ms=0"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(role); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	leaktest.Main(m)
}

func init() {
	if os.Getenv(roleVariable) != "" {
		runtime.LockOSThread() // to the thread that leads the process
	}
}

// play is the life of a child: it says its pid, and stays until its standard input ends.
func play(role string) error {
	role, rest, _ := strings.Cut(role, ":")
	switch role {
	case "chain":
		left, _ := strconv.Atoi(rest)
		if left > 0 {
			child := exec.Command("/proc/self/exe")
			child.Env = []string{fmt.Sprintf("%s=chain:%d", roleVariable, left-1), raceExit}
			child.Stdin, child.Stdout = os.Stdin, os.Stdout
			return child.Run()
		}
	case "rename":
		if err := rename(rest); err != nil {
			return err
		}
	case "exec":
		fmt.Println(os.Getpid())
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			return err
		}
		return syscall.Exec("/proc/self/exe", []string{"second", "program"}, []string{roleVariable + "=stay", raceExit})
	case "read":
		return readFor(rest)
	case "change":
		return change()
	}
	fmt.Println(os.Getpid())
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// change takes orders line by line: a name, arguments over its own, a cgroup to go to, or to do
// all of that for as long as it lives.
func change() error {
	fmt.Println(os.Getpid())
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		order, rest, _ := strings.Cut(orders.Text(), " ")
		switch order {
		case "name":
			if err := rename(rest); err != nil {
				return err
			}
		case "args":
			overwriteArgs(strings.Fields(rest))
		case "cgroup":
			if err := enter(rest); err != nil {
				return err
			}
		case "forever":
			go changeForever(strings.Fields(rest))
		}
		fmt.Println("done")
	}
	return orders.Err()
}

func changeForever(cgroups []string) {
	for i := 0; ; i++ {
		_ = enter(cgroups[i%len(cgroups)])
		_ = rename([]string{"one", "other\n\x1b["}[i%2])
		overwriteArgs([][]string{{"a\x1b[1m", "b\nb\xff\xff"}, {"x=y", "--token"}}[i%2])
	}
}

func rename(name string) error {
	text := append([]byte(name), 0)
	return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&text[0])), 0, 0, 0)
}

// overwriteArgs writes over the arguments where the kernel shows them.
func overwriteArgs(args []string) {
	for i, arg := range args {
		copy(unsafe.Slice(unsafe.StringData(os.Args[i]), len(os.Args[i])), arg)
	}
}

func enter(cgroup string) error {
	return os.WriteFile(cgroup+"/cgroup.procs", []byte("0"), 0)
}

// readFor names, from inside the namespaces it is in, the process of a pid and a start time.
func readFor(spec string) error {
	var o Origin
	if _, err := fmt.Sscan(spec, &o.PID, &o.Started); err != nil {
		return err
	}
	r, err := NewReader(Options{})
	if err != nil {
		return err
	}
	c := r.Caller(o)
	fmt.Println(c.Complete, c.Executable, time.Since(c.Started) < time.Hour)
	return nil
}

type child struct {
	pid    int // of the process that said so, the last of a chain
	first  *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

// start runs a child in a role and waits until it plays it. prepare may be nil.
func start(t testing.TB, role string, prepare func(*exec.Cmd)) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{roleVariable + "=" + role, raceExit}
	if prepare != nil {
		prepare(cmd)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{first: cmd, stdin: stdin, stdout: bufio.NewReader(stdout)}
	t.Cleanup(c.stop)
	c.pid, err = strconv.Atoi(c.line(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *child) line(t testing.TB) string {
	t.Helper()
	line, err := c.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("child: %v", err)
	}
	return strings.TrimSpace(line)
}

func (c *child) stop() {
	_ = c.stdin.Close()
	_ = c.first.Wait() // of one that was killed before it returns at once
}

// origin is the record that the kernel would make of a process. The kernel's times are exact, so
// they lie somewhere within the tick that /proc shows.
func origin(t testing.TB, pid int) Origin {
	t.Helper()
	s, err := processAt("/proc", pid).stat(make([]byte, maxFile))
	if err != nil {
		t.Fatal(err)
	}
	return Origin{
		PID: uint32(pid), TID: uint32(pid), PPID: uint32(s.ppid),
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
		Comm:    s.comm,
		Started: time.Duration(s.started)*userTick + 9999999,
		ExecID:  1, CgroupID: 1,
	}
}

func newReader(t testing.TB, opts Options) *Reader {
	t.Helper()
	r, err := NewReader(opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
