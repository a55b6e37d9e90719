package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// What the watch is measured with.
const (
	watchedRate    = 2000 // calls a second
	watchedLasting = 3 * time.Second
	// told is how long an answer may take to be told of.
	told = 500 * time.Millisecond
)

// watchCost is what a bridge takes that only watches, and what it sees.
type watchCost struct {
	// Packet is a UDP packet over loopback to an address that is not IMDS, sent and received: it
	// meets both programs.
	Packet turns
	// Programs are the kernel's own figures for such packets.
	Programs []programCost
	Made     int     // calls
	Rate     float64 // at which they were made, a second
	Seen     int     // of them
	Lost     int     // events that the watch could not read or tell, by its own count
	Unnamed  int     // calls seen of nobody knows whom
}

func (p *place) watchCost(o options) (w watchCost, err error) {
	note("watch")
	b, err := p.bridge(o.bridge, byNone)
	if err != nil {
		return w, err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	if w.Packet, err = p.packets(2000); err != nil {
		return w, err
	}
	w.Programs, err = p.programCosts([]ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress},
		func() (turns, error) { return p.packets(200) })
	if err != nil {
		return w, err
	}
	return w, w.count(p, b)
}

func (p *place) packets(batches int) (t turns, err error) {
	err = p.role(p.lab.Host().StartOutside, &t, "packets", "-cgroup", p.lab.Cgroup(), fmt.Sprintf("-batches=%d", batches))
	return t, err
}

// count has calls made, and asks the bridge how many it saw.
func (w *watchCost) count(p *place, b *bridge) error {
	before, err := b.metric("imds_watch_requests_total")
	if err != nil {
		return err
	}
	var made paced
	if err := p.role(p.lab.Host().Start, &made, "paced", fmt.Sprintf("-rate=%d", watchedRate), fmt.Sprintf("-for=%s", watchedLasting)); err != nil {
		return err
	}
	if err := p.pause(told); err != nil {
		return err
	}
	w.Made, w.Rate = made.Calls, made.Rate
	for name, value := range map[string]*int{
		"imds_watch_requests_total": &w.Seen,
		"imds_watch_lost_total":     &w.Lost,
		"imds_watch_unnamed_total":  &w.Unnamed,
	} {
		now, err := b.metric(name)
		if err != nil {
			return err
		}
		*value = int(now)
	}
	w.Seen -= int(before)
	return nil
}

// packetsRole times packets, and prints a turns as JSON. It starts out of the watch's sight.
func packetsRole(args []string) error {
	f := flag.NewFlagSet("packets", flag.ContinueOnError)
	cgroup := f.String("cgroup", "", "where the watch is")
	batches := f.Int("batches", 1, "of each socket")
	if err := f.Parse(args); err != nil {
		return err
	}
	plain, watched, err := pair(*cgroup, loop)
	if err != nil {
		return err
	}
	t, err := byTurns(plain, watched, *batches, pass)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(t)
}

// loop is a UDP socket that is connected to itself.
func loop() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return -1, fmt.Errorf("bind a socket: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return -1, fmt.Errorf("find the socket's port: %w", err)
	}
	if err := unix.Connect(fd, name); err != nil {
		return -1, fmt.Errorf("connect a socket to itself: %w", err)
	}
	return fd, nil
}

// pass is what a packet takes there and back.
func pass(fd int) (time.Duration, error) {
	var packet [100]byte
	start := time.Now()
	if _, err := unix.Write(fd, packet[:]); err != nil {
		return 0, fmt.Errorf("send a packet: %w", err)
	}
	if _, err := unix.Read(fd, packet[:]); err != nil {
		return 0, fmt.Errorf("receive a packet: %w", err)
	}
	return time.Since(start), nil
}

// paced are calls at a rate.
type paced struct {
	Calls int
	Rate  float64 // that was kept, a second
}

// pacedRole makes v2 calls at a rate, as far as the machine lets it, and prints a paced as JSON.
func pacedRole(args []string) error {
	f := flag.NewFlagSet("paced", flag.ContinueOnError)
	rate := f.Int("rate", 1, "calls a second")
	lasting := f.Duration("for", time.Second, "how long")
	if err := f.Parse(args); err != nil {
		return err
	}
	start, calls := time.Now(), int(lasting.Seconds()*float64(*rate))
	for i := range calls {
		due := time.Second * time.Duration(i) / time.Duration(*rate)
		time.Sleep(time.Until(start.Add(due)))
		if err := callOnce(v2); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(paced{calls, float64(calls) / time.Since(start).Seconds()})
}
