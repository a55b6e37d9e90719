package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// window is how many callers one median is taken over.
	window = 500
	// knownRounds is how often a known caller's calls are measured, before and after.
	knownRounds = 5
)

// identity is what it costs to name callers, few and many: medians.
type identity struct {
	Callers int
	// A caller's first and second call, by the bridge's own duration: for the first callers and for
	// the last ones.
	NewFirst, NewLast, AgainFirst, AgainLast time.Duration
	// A known caller's call, as it sees it: while the bridge knows no other, and while it knows all.
	KnownFew, KnownMany time.Duration
	// The same, less what a direct call took at the time.
	AddedFew, AddedMany time.Duration
}

// identity measures a bridge that knows nobody yet.
func (p *place) identity(direct proxy, o options) (_ *identity, err error) {
	note("%d callers", o.callers)
	b, err := p.bridge(o.bridge, byHook)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	i := &identity{Callers: o.callers}
	if i.KnownFew, i.AddedFew, err = p.known(direct, b, o); err != nil {
		return nil, err
	}
	if err := p.role(p.lab.Host().Start, nil, "callers", strconv.Itoa(o.callers)); err != nil {
		return nil, err
	}
	if err := p.pause(settle); err != nil {
		return nil, err
	}
	if err := i.readLog(b); err != nil {
		return nil, err
	}
	i.KnownMany, i.AddedMany, err = p.known(direct, b, o)
	return i, err
}

// known is what calls of one caller take, in all and on top of direct ones.
func (p *place) known(direct proxy, b *bridge, o options) (all, added time.Duration, err error) {
	var alls, addeds []time.Duration
	for range knownRounds {
		d, err := p.load(direct, 1, o.slice)
		if err != nil {
			return 0, 0, err
		}
		l, err := p.load(b.proxy("bridge"), 1, o.slice)
		if err != nil {
			return 0, 0, err
		}
		alls, addeds = append(alls, l.P50), append(addeds, l.P50-d.P50)
	}
	if err := p.pause(settle); err != nil {
		return 0, 0, err
	}
	_, err = b.takeLines()
	return median(alls), median(addeds), err
}

// readLog takes the durations of the callers' calls from the bridge's log.
func (i *identity) readLog(b *bridge) error {
	f, err := os.Open(b.log.Name())
	if err != nil {
		return fmt.Errorf("read the bridge's log: %w", err)
	}
	defer f.Close()
	var fresh, again []time.Duration
	last := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct {
			DurationUS *int64 `json:"duration_us"`
			Caller     struct {
				PID      int
				Complete bool
			}
		}
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.DurationUS == nil {
			continue
		}
		if !line.Caller.Complete {
			return fmt.Errorf("the bridge could not name a caller: %s", lines.Text())
		}
		took := time.Duration(*line.DurationUS) * time.Microsecond
		if line.Caller.PID != last {
			last, fresh = line.Caller.PID, append(fresh, took)
		} else {
			again = append(again, took)
		}
	}
	if len(fresh) != i.Callers || len(again) != i.Callers {
		return fmt.Errorf("the log has %d first and %d second calls of %d callers", len(fresh), len(again), i.Callers)
	}
	i.NewFirst, i.NewLast = median(fresh[:window]), median(fresh[i.Callers-window:])
	i.AgainFirst, i.AgainLast = median(again[:window]), median(again[i.Callers-window:])
	return nil
}

// callersRole makes calls from so many processes, one after the other.
func callersRole(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	for range n {
		cmd := exec.Command(self, "call")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("call: %w", err)
		}
	}
	return nil
}

// callRole makes two calls, as a short-lived process that knows nothing of tokens.
func callRole([]string) error {
	for range 2 {
		if err := callOnce(v1); err != nil {
			return err
		}
	}
	return nil
}

func callOnce(request []byte) error {
	fd, err := dial(socketAddr(imdsAddr))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, request); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	var buf [1024]byte
	for n := 0; ; {
		more, err := unix.Read(fd, buf[n:])
		if err != nil {
			return fmt.Errorf("read an answer: %w", err)
		}
		if n += more; more > 0 {
			continue
		}
		if !complete(buf[:n]) {
			return fmt.Errorf("unexpected answer %q", buf[:n])
		}
		return nil
	}
}
