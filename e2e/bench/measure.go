package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// result is all that a run measured.
type result struct {
	Date        string
	Took        time.Duration
	Machine     machine
	Comparison  *comparison
	Hook        hookCost
	Watch       watchCost
	Starting    starting
	Identity    *identity
	Attribution attributionCost
	Reach       []reach
}

// machine is what the figures are of.
type machine struct {
	CPU      string
	Cores    int
	Kernel   string
	Load     string // average of the last minute, when the run began
	Programs []string
}

func measure(ctx context.Context, o options) (r *result, err error) {
	start := time.Now()
	r = &result{Date: start.UTC().Format(time.DateOnly)}
	if r.Machine, err = describe(o); err != nil {
		return nil, err
	}
	p, err := newPlace(ctx)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("bench must be root, to make network namespaces and a scratch cgroup: use make bench (%w)", err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()

	direct := p.direct()
	if err := r.sideBySide(p, direct, o); err != nil {
		return nil, err
	}
	if r.Watch, err = p.watchCost(o); err != nil {
		return nil, err
	}
	if r.Starting, err = p.starting(o); err != nil {
		return nil, err
	}
	if r.Identity, err = p.identity(direct, o); err != nil {
		return nil, err
	}
	if r.Attribution, err = p.attributionCost(o); err != nil {
		return nil, err
	}
	r.Took = time.Since(start).Round(time.Second)
	r.Reach = r.judge()
	return r, nil
}

// sideBySide measures what running bridges can show. The one with rules has a place of its own: they are
// for all of a host, and would redirect the calls of the others.
func (r *result) sideBySide(p *place, direct proxy, o options) (err error) {
	nginx, err := p.nginx()
	if err != nil {
		return err
	}
	haproxy, err := p.haproxy()
	if err != nil {
		return err
	}
	hook, err := p.bridge(o.bridge, byHook)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hook.stop()) }()
	other, err := newPlace(p.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, other.close()) }()
	rules, err := other.bridge(o.bridge, byRules)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rules.stop()) }()
	if err := p.pause(time.Second); err != nil { // at rest
		return err
	}
	if r.Comparison, err = p.compare([]proxy{
		direct, nginx, haproxy, hook.proxy("bridge"), rules.proxy("bridge, iptables"), p.directInContainer(),
		hook.inContainer("bridge, container"), rules.inContainer("bridge, iptables, container"),
	}, o); err != nil {
		return err
	}
	if r.Hook, err = p.hookCost(); err != nil {
		return err
	}
	if o.profile == "" {
		return nil
	}
	if err := p.profileUnderLoad(hook, slices.Max(concurrency), filepath.Join(o.profile, "bench")); err != nil {
		return err
	}
	return p.profileUnderLoad(rules, 1, filepath.Join(o.profile, "bench-iptables"))
}

// direct is a call from the host without any proxy.
func (p *place) direct() proxy {
	return proxy{name: hostDirect, addr: imdsAddr.String(), token: true, atOnce: concurrency, start: p.lab.Host().StartOutside}
}

// directInContainer is one from the container, which the host forwards.
func (p *place) directInContainer() proxy {
	return proxy{name: containerDirect, addr: imdsAddr.String(), token: true, atOnce: []int{1}, start: p.container.StartOutside}
}

func describe(o options) (m machine, err error) {
	m.Cores = runtime.NumCPU()
	info, _ := os.ReadFile("/proc/cpuinfo") // other architectures name no model
	m.CPU = runtime.GOARCH
	for line := range strings.Lines(string(info)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(model)
			break
		}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, fmt.Errorf("find the kernel's version: %w", err)
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	average, _ := os.ReadFile("/proc/loadavg")
	m.Load, _, _ = strings.Cut(string(average), " ")
	for _, c := range [][]string{{o.bridge, "version"}, {"nginx", "-v"}, {"haproxy", "-v"}} {
		program, err := lookPath(c[0])
		if err != nil {
			return m, err
		}
		out, err := exec.Command(program, c[1:]...).CombinedOutput()
		if err != nil {
			return m, fmt.Errorf("ask %s for its version: %w", program, err)
		}
		line, _, _ := strings.Cut(string(out), "\n")
		m.Programs = append(m.Programs, strings.TrimPrefix(line, "nginx version: "))
	}
	return m, nil
}
