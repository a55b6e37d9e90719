package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/attribution"
	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/caller/software"
	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/imds"
)

// containers is how many are known while attribution is measured.
const containers = 500

// attributionCost is what it takes to find out all there is to know of callers, by the functions that the bridge
// calls, without the calls themselves.
type attributionCost struct {
	Callers, Containers int
	// What a call waits for: of a process that is met for the first time, and of one that was met before.
	New, Again ends
	After      ends // what follows the answer
	Heap       int  // bytes for each caller that is remembered
}

// ends are medians over the first callers and over the last.
type ends struct{ First, Last time.Duration }

func endsOf(all []time.Duration) ends {
	return ends{median(all[:window]), median(all[len(all)-window:])}
}

func (p *place) attributionCost(o options) (c attributionCost, err error) {
	note("attribution of %d callers", o.callers)
	err = p.role(p.lab.Host().StartOutside, &c, "attribution", "-callers", strconv.Itoa(o.callers), "-cgroup", p.lab.Cgroup())
	return c, err
}

// attributionRole meets processes that live for a moment each, one after the other, in cgroups of containers.
func attributionRole(args []string) (err error) {
	f := flag.NewFlagSet("attribution", flag.ContinueOnError)
	callers := f.Int("callers", 10_000, "processes")
	cgroup := f.String("cgroup", "", "directory for the containers' cgroups")
	if err := f.Parse(args); err != nil {
		return err
	}
	a, err := newAttributing(*cgroup, *callers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	c, err := a.measure(*callers)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c)
}

// attributing is what the bridge attributes with, as it is configured by default, and a source that knows
// containers.
type attributing struct {
	reader     *caller.Reader
	finder     *software.Finder
	containers *container.Directory
	attributor *attribution.Attributor
	cgroups    []*os.File
}

func newAttributing(cgroup string, callers int) (a *attributing, err error) {
	a = &attributing{}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	var known known
	for n := range containers {
		id := fmt.Sprintf("%064x", n+1)
		known = append(known, &container.Container{ID: id, Name: "shop", Labels: map[string]string{"team": "checkout"}})
		path := filepath.Join(cgroup, "docker-"+id+".scope")
		if err := os.Mkdir(path, 0o755); err != nil {
			return a, fmt.Errorf("make cgroup: %w", err)
		}
		directory, err := os.Open(path)
		if err != nil {
			return a, fmt.Errorf("open cgroup: %w", err)
		}
		a.cgroups = append(a.cgroups, directory)
	}
	rules, err := owner.ParseRules(config.Default().Attribution.Owner)
	if err != nil {
		return a, err
	}
	if a.reader, err = caller.NewReader(caller.Options{Size: callers, Env: attribution.Variables(rules)}); err != nil {
		return a, err
	}
	if a.finder, err = software.New(software.Options{}); err != nil {
		return a, err
	}
	a.containers = container.Open(slog.New(slog.DiscardHandler), known)
	a.attributor = attribution.New(attribution.Options{Containers: a.containers, Software: a.finder, Rules: rules, Size: callers})
	for !a.containers.States()[0].Ready {
		time.Sleep(time.Millisecond)
	}
	return a, nil
}

func (a *attributing) close() error {
	var errs []error
	if a.containers != nil {
		a.containers.Close()
	}
	if a.finder != nil {
		a.finder.Close()
	}
	for _, c := range a.cgroups {
		errs = append(errs, c.Close(), unix.Rmdir(c.Name()))
	}
	return errors.Join(errs...)
}

// known is a source of containers that are there from the beginning.
type known []*container.Container

func (known) Name() string { return "docker" }

func (k known) Watch(ctx context.Context, told container.Listener) error {
	for _, c := range k {
		told.Here(c)
	}
	told.Ready()
	<-ctx.Done()
	return nil
}

func (known) Inspect(context.Context, string) (*container.Container, error) {
	return nil, container.ErrUnknown
}

func (a *attributing) measure(callers int) (c attributionCost, err error) {
	var fresh, again, after []time.Duration
	before := heap()
	for n := range callers {
		if err := a.meet(n, func(o caller.Origin) {
			start := time.Now()
			who := a.reader.Caller(o)
			a.attributor.Meet(who)
			met := time.Now()
			a.attributor.Meet(a.reader.Caller(o))
			known := time.Now()
			call := attribution.Call{
				Caller: who, OtherNetwork: true, Kind: imds.V1, Path: "/latest/meta-data/instance-id", Route: "/latest/meta-data/instance-id",
				UserAgent: "curl/7.88.1", Status: 200, Answered: true, Start: start, End: known,
			}
			a.attributor.Of(call)
			begin := time.Now()
			a.attributor.Of(call)
			fresh, again, after = append(fresh, met.Sub(start)), append(again, known.Sub(met)), append(after, time.Since(begin))
		}); err != nil {
			return c, err
		}
	}
	used := heap() - before - 3*8*uint64(cap(fresh))
	runtime.KeepAlive(a)
	return attributionCost{
		Callers: callers, Containers: containers,
		New: endsOf(fresh), Again: endsOf(again), After: endsOf(after), Heap: int(used) / callers,
	}, nil
}

// meet has a process live in the cgroup of a container while f looks at it.
func (a *attributing) meet(n int, f func(caller.Origin)) (err error) {
	cgroup := a.cgroups[n%len(a.cgroups)]
	cmd := exec.Command("cat", "-", fmt.Sprintf("/of/job/%d", n))
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a caller: %w", err)
	}
	o, err := originOf(cmd.Process.Pid, cgroup)
	if err == nil {
		f(o)
	}
	_ = in.Close()
	_ = cmd.Wait() // cat does not find its second file
	return err
}

// originOf is what the kernel's record would say of a process.
func originOf(pid int, cgroup *os.File) (o caller.Origin, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(cgroup.Fd()), &st); err != nil {
		return o, fmt.Errorf("stat cgroup: %w", err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return o, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return o, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
	}
	ppid, err := strconv.ParseUint(fields[1], 10, 32)
	if err != nil {
		return o, err
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return o, err
	}
	return caller.Origin{
		PID: uint32(pid), TID: uint32(pid), PPID: uint32(ppid), Comm: "cat",
		Started: time.Duration(ticks) * 10 * time.Millisecond, // USER_HZ is 100
		ExecID:  1, CgroupID: st.Ino,
	}, nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
