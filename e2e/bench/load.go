package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// warmup is how many calls of a client are made before those that are timed.
	warmup = 200
	// maxWrong is how many of a client's calls may get another answer than they should. With more, what it saw
	// is not measured.
	maxWrong = 20
)

// load is what one client saw in one slice.
type load struct {
	Calls int           // all, those of the warm-up included
	P50   time.Duration // from before the socket is made until the answer is whole
	P90   time.Duration
	P99   time.Duration
	Rate  float64 // calls a second
	Wrong int     // calls that got another answer; not timed
	Got   string  // the last of those answers
}

// check tells of a load that is not what was to be measured.
func (l load) check() error {
	if l.Wrong <= maxWrong {
		return nil
	}
	status, _, _ := strings.Cut(l.Got, "\r\n")
	return fmt.Errorf("%d of %d calls got another answer than they should, the last of them %q", l.Wrong, l.Calls, status)
}

// client calls over a fixed number of connections at once, each for one call, from one thread.
type client struct {
	to      *unix.SockaddrInet4
	request []byte
	epoll   int
	slots   []slot
	ended   int             // calls whose answer is whole
	wrong   int             // calls that ended with another answer
	got     string          // the last of those
	open    int             // connections
	last    bool            // no further call is to be made
	times   []time.Duration // of the ended calls
}

// slot is one connection of the many at once.
type slot struct {
	fd      int
	started time.Time
	done    bool // the answer is whole, and the server is to close
	n       int
	buf     [1024]byte
}

// loadRole calls for a time, and prints a load as JSON.
func loadRole(args []string) error {
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	to := f.String("to", "", "address and port")
	withToken := f.Bool("token", false, "send the token")
	connections := f.Int("connections", 1, "at once")
	lasting := f.Duration("for", time.Second, "how long")
	if err := f.Parse(args); err != nil {
		return err
	}
	addr, err := netip.ParseAddrPort(*to)
	if err != nil {
		return err
	}
	// The client's own collector must not show in the figures.
	debug.SetGCPercent(-1)
	runtime.LockOSThread()

	c := &client{to: socketAddr(addr), request: v1, slots: make([]slot, *connections), times: make([]time.Duration, 0, 1<<18)}
	if *withToken {
		c.request = v2
	}
	l, err := c.run(*lasting)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(l)
}

func (c *client) run(lasting time.Duration) (l load, err error) {
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return l, fmt.Errorf("make an epoll: %w", err)
	}
	for i := range c.slots {
		if err := c.call(i); err != nil {
			return l, err
		}
	}
	if err := c.until(func() bool { return c.ended+c.wrong >= warmup }); err != nil {
		return l, err
	}
	before, start := c.ended, time.Now()
	c.times = c.times[:0]
	if err := c.until(func() bool { return time.Since(start) >= lasting }); err != nil {
		return l, err
	}
	took, timed := time.Since(start), c.ended-before
	slices.Sort(c.times)
	l = load{
		P50:  quantile(c.times, 0.50),
		P90:  quantile(c.times, 0.90),
		P99:  quantile(c.times, 0.99),
		Rate: float64(timed) / took.Seconds(),
	}
	c.last = true
	err = c.until(func() bool { return c.open == 0 })
	l.Calls, l.Wrong, l.Got = c.ended+c.wrong, c.wrong, c.got
	return l, err
}

// until serves the connections until enough says so.
func (c *client) until(enough func() bool) error {
	events := make([]unix.EpollEvent, len(c.slots))
	for !enough() {
		n, err := unix.EpollWait(c.epoll, events, 5000)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for answers: %w", err)
		}
		if n == 0 {
			return errors.New("no answer within five seconds")
		}
		for _, e := range events[:n] {
			if err := c.read(int(e.Fd)); err != nil {
				return err
			}
		}
	}
	return nil
}

// call makes the next call in slot i.
func (c *client) call(i int) (err error) {
	s := &c.slots[i]
	s.started, s.done, s.n = time.Now(), false, 0
	if s.fd, err = dial(c.to); err != nil {
		return err
	}
	if _, err := unix.Write(s.fd, c.request); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	// The event's descriptor is for us to use: it says which slot.
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
	if err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, s.fd, &e); err != nil {
		return fmt.Errorf("watch a connection: %w", err)
	}
	c.open++
	return nil
}

// read takes what has come in slot i. The server closes first, so that the ports that wait for
// lost segments are not the client's.
func (c *client) read(i int) error {
	s := &c.slots[i]
	n, err := unix.Read(s.fd, s.buf[s.n:])
	if err != nil {
		return fmt.Errorf("read an answer: %w", err)
	}
	if n == 0 {
		if !s.done {
			c.wrong++
			c.got = string(s.buf[:s.n])
		}
		unix.Close(s.fd)
		c.open--
		if c.last {
			return nil
		}
		return c.call(i)
	}
	s.n += n
	if !s.done && complete(s.buf[:s.n]) {
		s.done = true
		c.ended++
		c.times = append(c.times, time.Since(s.started))
	}
	return nil
}

// quantile of what is sorted already.
func quantile[T any](sorted []T, q float64) (t T) {
	if len(sorted) == 0 {
		return t
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// median of what need not be sorted.
func median[T float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
