package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// planFile is where a machine finds what it is to do.
const planFile = "/plan.json"

// plan is what one machine does.
type plan struct {
	Cgroups layout
	Suites  []planned
}

type planned struct {
	Folder    string
	Binary    string
	Directory string
	Tests     []string
	Modules   []string // of the kernel that are loaded first
	Scratch   bool     // needs a cgroup2 to make scratch cgroups in
	Timeout   time.Duration
}

// event is a line on the machine's second serial port.
type event struct {
	Suite  string        // the folder of the one that it is about
	Output []byte        // of the tests
	Ended  *ended        // the tests are through
	Kernel []string      // what it complains about
	Uptime time.Duration // at this event
	Error  string        // of the init
}

type ended struct {
	Exit      string // "" for 0
	Took      time.Duration
	Processor time.Duration // of the tests and the children that they waited for
}

// beInit is the init of a machine: it does what the plan says, tells, and switches the machine off.
func beInit() {
	if err := serve(); err != nil {
		fmt.Println("init:", err) // on the console
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func serve() error {
	if err := mount("devtmpfs", "/dev", "devtmpfs", ""); err != nil {
		return err
	}
	port, err := os.OpenFile("/dev/ttyS1", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	r := reporter{json.NewEncoder(port)}
	last := event{}
	if err := do(r); err != nil {
		last.Error = err.Error()
	}
	last.Kernel = complaints()
	r.tell(last)
	return port.Close()
}

type reporter struct{ *json.Encoder }

func (r reporter) tell(e event) {
	var since unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &since)
	e.Uptime = time.Duration(since.Nano())
	if err := r.Encode(e); err != nil {
		fmt.Println("tell the host:", err) // on the console
	}
}

func do(r reporter) error {
	var p plan
	text, err := os.ReadFile(planFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	if err := prepare(p.Cgroups); err != nil {
		return err
	}
	for _, s := range p.Suites {
		if err := s.run(r, p.Cgroups); err != nil {
			return fmt.Errorf("run %s: %w", s.Folder, err)
		}
	}
	return nil
}

// prepare makes the machine what tests expect of one.
func prepare(cgroups layout) error {
	for _, m := range []struct{ typ, at, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/run", "mode=755"},
		{"bpf", "/sys/fs/bpf", ""},
	} {
		if err := mount(m.typ, m.at, m.typ, m.data); err != nil {
			return err
		}
	}
	if err := os.Symlink("/proc/self/fd", "/dev/fd"); err != nil {
		return err
	}
	if err := mountCgroups(cgroups); err != nil {
		return err
	}
	for what, limit := range map[int]unix.Rlimit{ // as systemd and the bridge's unit have them
		unix.RLIMIT_NOFILE:  {Cur: 1024, Max: 524288},
		unix.RLIMIT_MEMLOCK: {Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY},
	} {
		if err := unix.Setrlimit(what, &limit); err != nil {
			return fmt.Errorf("set limit %d: %w", what, err)
		}
	}
	return loopbackUp()
}

func mount(source, at, typ, data string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, at, typ, 0, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", typ, at, err)
	}
	return nil
}

// controllers are those that a host with version 1 has.
var controllers = []string{"cpuset", "cpu,cpuacct", "blkio", "memory", "devices", "freezer", "net_cls,net_prio", "pids"}

func mountCgroups(l layout) error {
	const at = "/sys/fs/cgroup"
	if l == unified {
		return mount("cgroup2", at, "cgroup2", "")
	}
	if err := mount("tmpfs", at, "tmpfs", "mode=755"); err != nil {
		return err
	}
	for _, c := range controllers {
		if err := mount("cgroup", at+"/"+c, "cgroup", c); err != nil {
			return err
		}
	}
	if err := mount("cgroup", at+"/systemd", "cgroup", "none,name=systemd"); err != nil || l == legacy {
		return err
	}
	return mount("cgroup2", at+"/unified", "cgroup2", "")
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// run runs the tests, and tells what they print while they do.
func (s planned) run(r reporter, cgroups layout) error {
	const scratch = "/run/cgroup2"
	if s.Scratch && cgroups == legacy {
		if err := mount("cgroup2", scratch, "cgroup2", ""); err != nil {
			return err
		}
		defer func() { _ = unix.Unmount(scratch, unix.MNT_DETACH) }()
	}
	for _, m := range s.Modules {
		if err := modprobe(m); err != nil {
			return err
		}
	}
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	start := time.Now()
	process, err := os.StartProcess(s.Binary, []string{
		s.Binary, "-test.v=test2json", "-test.parallel=1", "-test.shuffle=on",
		"-test.timeout=" + s.Timeout.String(), "-test.run=^(" + strings.Join(s.Tests, "|") + ")$",
	}, &os.ProcAttr{
		Dir:   s.Directory,
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp"},
		Files: []*os.File{null, in, in},
		Sys:   &syscall.SysProcAttr{Setsid: true}, // its signals to its group are not for the init
	})
	in.Close()
	if err != nil {
		return err
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		buffer := make([]byte, 16<<10)
		for {
			n, err := out.Read(buffer)
			if n > 0 {
				r.tell(event{Suite: s.Folder, Output: buffer[:n]})
			}
			if err != nil {
				return
			}
		}
	}()
	status, usage, err := await(process.Pid)
	if err != nil {
		return err
	}
	select {
	case <-told:
	case <-time.After(5 * time.Second): // somebody whom the tests left behind holds the pipe
	}
	out.Close()
	end := ended{Took: time.Since(start), Processor: time.Duration(usage.Utime.Nano() + usage.Stime.Nano())}
	if status.Signaled() {
		end.Exit = "signal: " + status.Signal().String()
	} else if status.ExitStatus() != 0 {
		end.Exit = fmt.Sprint("exit status ", status.ExitStatus())
	}
	r.tell(event{Suite: s.Folder, Ended: &end})
	return nil
}

func modprobe(module string) error {
	const program = "/sbin/modprobe"
	process, err := os.StartProcess(program, []string{program, module}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	if status, _, err := await(process.Pid); err != nil || status != 0 {
		return fmt.Errorf("load module %s: status %d, %w", module, status, err)
	}
	return nil
}

// await waits for a process, and buries all others that end meanwhile, as an init has to.
func await(pid int) (status unix.WaitStatus, usage unix.Rusage, err error) {
	for {
		switch ended, err := unix.Wait4(-1, &status, 0, &usage); {
		case err == unix.EINTR:
		case err != nil:
			return status, usage, fmt.Errorf("wait for process %d: %w", pid, err)
		case ended == pid:
			return status, usage, nil
		}
	}
}

// complaint is what a kernel prints when it finds itself at fault.
var complaint = regexp.MustCompile(`WARNING:|BUG:|Oops|general protection fault|refcount_t:`)

// complaints are the kernel's, with what follows each. That a processor seems to stand still is the
// way of machines on a busy host, and no fault.
func complaints() (found []string) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return []string{"read the kernel's log: " + err.Error()}
	}
	text := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, text)
	if err != nil {
		return []string{"read the kernel's log: " + err.Error()}
	}
	lines := strings.Split(string(text[:n]), "\n")
	for i, line := range lines {
		if complaint.MatchString(line) && !strings.Contains(line, "soft lockup") {
			found = append(found, lines[i:min(i+30, len(lines))]...)
		}
	}
	return found
}
