package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// hookCost is what the hook adds to a connect() that is not its business.
type hookCost struct {
	TCP, UDP turns
	// Programs are the kernel's own figures for a TCP connect(), with two clock reads in each run.
	Programs []programCost
}

// programCost is what one program takes.
type programCost struct {
	Name string
	Runs float64 // for one connect() or packet
	Run  time.Duration
}

func (p *place) hookCost() (h hookCost, err error) {
	note("hook")
	if h.TCP, err = p.connects("tcp", 2000); err != nil {
		return h, err
	}
	if h.UDP, err = p.connects("udp", 2000); err != nil {
		return h, err
	}
	h.Programs, err = p.programCosts([]ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupSockOps, ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress,
	}, func() (turns, error) { return p.connects("tcp", 200) })
	return h, err
}

func (p *place) connects(network string, batches int) (c turns, err error) {
	err = p.role(p.lab.Host().StartOutside, &c, "connects", "-network", network, "-cgroup", p.lab.Cgroup(), fmt.Sprintf("-batches=%d", batches))
	return c, err
}

// programCosts has the kernel count what the programs at some places take under a load.
func (p *place) programCosts(where []ebpf.AttachType, load func() (turns, error)) (costs []programCost, err error) {
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
	before, err := programStats(cgroup, where)
	if err != nil {
		return nil, err
	}
	t, err := load()
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
			Name: name(where[i]),
			Runs: float64(runs) / float64(t.Seen),
			Run:  (after[i].Runtime - before[i].Runtime) / time.Duration(max(runs, 1)),
		})
	}
	return costs, nil
}

// name is the place's. The library takes the first one's number for that of none.
func name(attach ebpf.AttachType) string {
	if attach == ebpf.AttachCGroupInetIngress {
		return "CGroupInetIngress"
	}
	return attach.String()
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
	kind := unix.SOCK_STREAM
	if *network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	t, err := newTarget(kind)
	if err != nil {
		return err
	}
	plain, hooked, err := pair(*cgroup, func() (int, error) {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("make a socket: %w", err)
		}
		return fd, nil
	})
	if err != nil {
		return err
	}
	c, err := byTurns(plain, hooked, *batches, t.time)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c)
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

// time is what a connect takes. Then the socket is taken apart again, which is not timed.
func (t target) time(fd int) (time.Duration, error) {
	start := time.Now()
	err := unix.Connect(fd, t.addr)
	took := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	return took, t.reset(fd)
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
