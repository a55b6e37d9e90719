package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

var rounds = flag.Int("rounds", 1, "how many times as often as in CI things are broken")

var callerClient = built("caller", ".", "./clients/caller")

// call is one that a process of a stream made. See clients/caller.
type call struct {
	Kind    string
	Family  int
	Start   int64
	Took    time.Duration
	Status  int
	Refused bool
	Error   string
}

func (c call) began() time.Time { return time.Unix(0, c.Start) }
func (c call) ended() time.Time { return c.began().Add(c.Took) }

// straight tells that IMDS itself, which requires tokens, refused a call by IMDSv1: nobody upgraded it.
func (c call) straight() bool { return c.Kind == "v1" && c.Status == http.StatusUnauthorized }

func (c call) failed() bool { return c.Error != "" && !c.straight() }

func (c call) bridged() bool { return c.Kind == "v1" && c.Error == "" }

func (c call) String() string {
	return fmt.Sprintf("%s %s IPv%d, %s: %s", c.began().Format("05.000"), c.Kind, c.Family, c.Took.Round(time.Millisecond), c.Error)
}

type calls []call

func (cs calls) that(is func(call) bool) calls {
	return slices.DeleteFunc(slices.Clone(cs), func(c call) bool { return !is(c) })
}

func (cs calls) failed() calls { return cs.that(call.failed) }

func (cs calls) kind(kind string) calls { return cs.that(func(c call) bool { return c.Kind == kind }) }

// within are the calls that began in a period.
func (cs calls) within(s period) calls {
	return cs.that(func(c call) bool { return !c.began().Before(s.from) && c.began().Before(s.to) })
}

// beside are the calls that were not under way at any moment of the periods.
func (cs calls) beside(periods []period) calls {
	return cs.that(func(c call) bool {
		return !slices.ContainsFunc(periods, func(s period) bool { return !c.began().After(s.to) && !c.ended().Before(s.from) })
	})
}

// until tells how long after a moment the last of the calls began; 0 if none did after it.
func (cs calls) until(moment time.Time) (d time.Duration) {
	for _, c := range cs {
		d = max(d, c.began().Sub(moment))
	}
	return d
}

func (cs calls) slowest() (d time.Duration) {
	for _, c := range cs {
		d = max(d, c.Took)
	}
	return d
}

// percentile of how long the calls took.
func (cs calls) percentile(p int) time.Duration {
	if len(cs) == 0 {
		return 0
	}
	took := make([]time.Duration, len(cs))
	for n, c := range cs {
		took[n] = c.Took
	}
	slices.Sort(took)
	return took[(len(took)-1)*p/100]
}

// String shows how many, and the first ten.
func (cs calls) String() string {
	lines := []string{fmt.Sprintf("%d calls", len(cs))}
	for _, c := range cs[:min(10, len(cs))] {
		lines = append(lines, c.String())
	}
	return strings.Join(lines, "\n\t")
}

// period is from one moment to another.
type period struct{ from, to time.Time }

// stream is processes that call the metadata service all the time, each call on connections of its own.
type stream struct {
	processes []*callerProcess
}

type callerProcess struct {
	cmd   *exec.Cmd
	input io.Closer
	done  chan error

	mu   sync.Mutex
	made calls
}

// newFaultyInstance requires tokens, so that a call by IMDSv1 which goes straight shows.
func newFaultyInstance(t *testing.T) *instance {
	t.Helper()
	return newInstance(t, simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
}

// startStream starts processes that make 50 calls a second each, unless flags of clients/caller say
// otherwise, and waits for the first.
func (i *instance) startStream(t *testing.T, processes int, flags ...string) *stream {
	t.Helper()
	s := &stream{}
	for range processes {
		s.processes = append(s.processes, i.startCaller(t, nil, flags...))
	}
	t.Cleanup(func() { s.stop(t) })
	await(t, "each process of the stream calls", 10*time.Second, func() bool {
		return !slices.ContainsFunc(s.processes, func(p *callerProcess) bool { return len(p.calls()) == 0 })
	})
	return s
}

func (i *instance) startCaller(t *testing.T, as *syscall.Credential, flags ...string) *callerProcess {
	t.Helper()
	p := &callerProcess{cmd: exec.Command(callerClient(t), flags...), done: make(chan error, 1)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	input, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.input = input
	output, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	p.cmd.Stderr = &stderr
	if err := i.Host().Start(p.cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		err := p.read(output)
		if waiting := p.cmd.Wait(); waiting != nil {
			err = errors.Join(err, fmt.Errorf("%w: %s", waiting, stderr.String()))
		}
		p.done <- err
	}()
	return p
}

func (p *callerProcess) read(output io.Reader) error {
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		var c call
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return fmt.Errorf("%w: %q", err, lines.Text())
		}
		p.mu.Lock()
		p.made = append(p.made, c)
		p.mu.Unlock()
	}
	return lines.Err()
}

func (p *callerProcess) calls() calls {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.made)
}

// sofar are the calls that have ended, in the order of their beginning.
func (s *stream) sofar() (made calls) {
	for _, p := range s.processes {
		made = append(made, p.calls()...)
	}
	slices.SortFunc(made, func(a, b call) int { return int(a.Start - b.Start) })
	return made
}

// stop waits for the end of the calls under way, and returns them all. It may be called again.
func (s *stream) stop(t *testing.T) calls {
	t.Helper()
	for _, p := range s.processes {
		p.input.Close()
	}
	for _, p := range s.processes {
		if p.done == nil {
			continue
		}
		if err := <-p.done; err != nil {
			t.Errorf("a process of the stream: %v", err)
		}
		p.done = nil
	}
	return s.sofar()
}

// awaitBridged waits until the calls by IMDSv1 that began in the last while were all upgraded.
func (s *stream) awaitBridged(t *testing.T, patience time.Duration) {
	t.Helper()
	const while, enough = 200 * time.Millisecond, 5
	await(t, "all calls by IMDSv1 are upgraded", patience, func() bool {
		now := time.Now()
		bridged := 0
		for _, p := range s.processes {
			for _, c := range p.calls().kind("v1") {
				switch {
				case c.began().Before(now.Add(-while)):
				case c.bridged():
					bridged++
				default:
					return false
				}
			}
		}
		return bridged >= enough
	})
}
