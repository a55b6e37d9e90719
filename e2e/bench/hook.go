package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// A socket belongs to the cgroup in which it was made. So one process, on one CPU, can hold a
// socket that the hook sees and one that it does not, and time the same connect() on both by turns.

// batch is how many connects of one socket are timed before it is the other's turn.
const batch = 100

// connects is what one connect() to an address that is not IMDS takes.
type connects struct {
	Plain time.Duration // out of the hook's sight
	Added time.Duration // in its sight, on top of that: median of the differences between batches
	Seen  int           // connects in the hook's sight
}

// hookCost is what the hook adds to a connect() that is not its business.
type hookCost struct {
	TCP, UDP connects
	// Programs are the kernel's own figures for a TCP connect(), with two clock reads in each run.
	Programs []programCost
}

// programCost is what one program of the hook takes.
type programCost struct {
	Name       string
	PerConnect float64 // runs
	Run        time.Duration
}

func (p *place) hookCost() (h hookCost, err error) {
	note("hook")
	if h.TCP, err = p.connects("tcp", 2000); err != nil {
		return h, err
	}
	if h.UDP, err = p.connects("udp", 2000); err != nil {
		return h, err
	}
	h.Programs, err = p.programCosts()
	return h, err
}

func (p *place) connects(network string, batches int) (c connects, err error) {
	err = p.role(p.lab.Host().StartOutside, &c, "connects", "-network", network, "-cgroup", p.lab.Cgroup(), fmt.Sprintf("-batches=%d", batches))
	return c, err
}

// programCosts has the kernel count what the programs take.
func (p *place) programCosts() (costs []programCost, err error) {
	cgroup, err := os.Open(p.lab.Cgroup())
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	defer cgroup.Close()
	counting, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("have the kernel time its programs: %w", err)
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	where := []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupSockOps}
	before, err := programStats(cgroup, where)
	if err != nil {
		return nil, err
	}
	seen, err := p.connects("tcp", 200)
	if err != nil {
		return nil, err
	}
	after, err := programStats(cgroup, where)
	if err != nil {
		return nil, err
	}
	for i := range where {
		runs := after[i].RunCount - before[i].RunCount
		costs = append(costs, programCost{
			Name:       where[i].String(),
			PerConnect: float64(runs) / float64(seen.Seen),
			Run:        (after[i].Runtime - before[i].Runtime) / time.Duration(max(runs, 1)),
		})
	}
	return costs, nil
}

// programStats are those of the first program at each place.
func programStats(cgroup *os.File, where []ebpf.AttachType) (all []*ebpf.ProgramStats, err error) {
	for _, attach := range where {
		attached, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: attach})
		if err != nil || len(attached.Programs) == 0 {
			return nil, fmt.Errorf("find the program at %s: %w", attach, err)
		}
		program, err := ebpf.NewProgramFromID(attached.Programs[0].ID)
		if err != nil {
			return nil, fmt.Errorf("open the program at %s: %w", attach, err)
		}
		defer program.Close()
		stats, err := program.Stats()
		if err != nil {
			return nil, fmt.Errorf("read the figures of the program at %s: %w", attach, err)
		}
		all = append(all, stats)
	}
	return all, nil
}

// connectsRole times connects, and prints them as JSON. It starts out of the hook's sight.
func connectsRole(args []string) error {
	f := flag.NewFlagSet("connects", flag.ContinueOnError)
	network := f.String("network", "tcp", "tcp or udp")
	cgroup := f.String("cgroup", "", "where the hook is")
	batches := f.Int("batches", 1, "of each socket")
	if err := f.Parse(args); err != nil {
		return err
	}
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	if err := pin(); err != nil {
		return err
	}
	kind := unix.SOCK_STREAM
	if *network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	t, err := newTarget(kind)
	if err != nil {
		return err
	}
	plain, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	if err := os.WriteFile(filepath.Join(*cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return fmt.Errorf("go into the hook's sight: %w", err)
	}
	hooked, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	c, err := t.compare(plain, hooked, *batches)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c)
}

// pin keeps the thread on one of its CPUs.
func pin() error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("find the CPUs: %w", err)
	}
	for cpu := range runtime.NumCPU() {
		if allowed.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("stay on one CPU: %w", err)
	}
	return nil
}

// target is what the sockets connect to: a port of this machine.
type target struct {
	addr     *unix.SockaddrInet4
	listener int // -1 for UDP, where nobody need be there
}

func newTarget(kind int) (target, error) {
	local := netip.MustParseAddrPort("127.0.0.1:9")
	if kind == unix.SOCK_DGRAM {
		return target{socketAddr(local), -1}, nil
	}
	l, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return target{}, fmt.Errorf("make a listener: %w", err)
	}
	if err := unix.Bind(l, socketAddr(netip.AddrPortFrom(local.Addr(), 0))); err != nil {
		return target{}, fmt.Errorf("bind a listener: %w", err)
	}
	if err := unix.Listen(l, 16); err != nil {
		return target{}, fmt.Errorf("listen: %w", err)
	}
	name, err := unix.Getsockname(l)
	if err != nil {
		return target{}, fmt.Errorf("find the listener's port: %w", err)
	}
	return target{name.(*unix.SockaddrInet4), l}, nil
}

func (t target) compare(plain, hooked, batches int) (c connects, err error) {
	var plains, added []time.Duration
	for i := range batches {
		took := map[int]time.Duration{}
		order := []int{plain, hooked}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, fd := range order {
			if took[fd], err = t.time(fd); err != nil {
				return c, err
			}
		}
		plains, added = append(plains, took[plain]), append(added, took[hooked]-took[plain])
	}
	return connects{Plain: median(plains), Added: median(added), Seen: batches * batch}, nil
}

// time is the median of a batch of connects. Between two of them the socket is taken apart again,
// which is not timed.
func (t target) time(fd int) (time.Duration, error) {
	var times [batch]time.Duration
	for i := range times {
		start := time.Now()
		err := unix.Connect(fd, t.addr)
		times[i] = time.Since(start)
		if err != nil {
			return 0, fmt.Errorf("connect: %w", err)
		}
		if err := t.reset(fd); err != nil {
			return 0, err
		}
	}
	return median(times[:]), nil
}

// reset leaves fd as it was before it connected: connect(2), AF_UNSPEC.
func (t target) reset(fd int) error {
	var unspecified [unix.SizeofSockaddrInet4]byte
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspecified)), uintptr(len(unspecified))); errno != 0 {
		return fmt.Errorf("disconnect: %w", errno)
	}
	if t.listener < 0 {
		return nil
	}
	accepted, _, err := unix.Accept4(t.listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	return unix.Close(accepted)
}
