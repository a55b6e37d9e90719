package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A socket belongs to the cgroup in which it was made. So one process, on one CPU, can hold a
// socket that the bridge's programs see and one that they do not, and time the same on both by turns.

// batch is how often it is timed on one socket before it is the other's turn.
const batch = 100

// turns are what something takes on a socket.
type turns struct {
	Plain time.Duration // out of the programs' sight
	Added time.Duration // in their sight, on top of that: median of the differences between batches
	Seen  int           // how often it was done in their sight
}

// ratio is how many times as long it takes in the programs' sight.
func (t turns) ratio() float64 { return ratio(t.Plain+t.Added, t.Plain) }

// pair makes two sockets, the second in a cgroup, where this process then stays. It keeps to one CPU.
func pair(cgroup string, socket func() (int, error)) (plain, seen int, err error) {
	debug.SetGCPercent(-1)
	runtime.LockOSThread()
	if err := pin(); err != nil {
		return -1, -1, err
	}
	if plain, err = socket(); err != nil {
		return -1, -1, err
	}
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return -1, -1, fmt.Errorf("go into the programs' sight: %w", err)
	}
	seen, err = socket()
	return plain, seen, err
}

// byTurns times batches on both sockets. The function does it once, and says how long it took.
func byTurns(plain, seen, batches int, once func(fd int) (time.Duration, error)) (t turns, err error) {
	var plains, added []time.Duration
	for i := range batches {
		took := map[int]time.Duration{}
		order := []int{plain, seen}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, fd := range order {
			var times [batch]time.Duration
			for n := range times {
				if times[n], err = once(fd); err != nil {
					return t, err
				}
			}
			took[fd] = median(times[:])
		}
		plains, added = append(plains, took[plain]), append(added, took[seen]-took[plain])
	}
	return turns{Plain: median(plains), Added: median(added), Seen: batches * batch}, nil
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
