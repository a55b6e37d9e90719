package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// bootPatience is how long a machine may take besides its tests.
const bootPatience = time.Minute

// suitePatience is how long the tests of one package may take in a machine.
func (o options) suitePatience() time.Duration {
	if o.all {
		return 15 * time.Minute
	}
	return 3 * time.Minute
}

// processors is how many each machine has. They share two: what waits for a processor that the host has
// stopped makes slow what is slow already.
func (o options) processors() int { return max(1, 2/o.atOnce) }

// outcome is what became of one machine.
type outcome struct {
	machine
	kernel kernel
	suites []suiteOutcome
	took   time.Duration
	cpu    time.Duration // of all cores
	start  time.Duration // of the kernel and the init
	err    error
}

// bootAll boots the machines, some at a time, and returns their outcomes in the order of the table.
func bootAll(ctx context.Context, o options, due []machine, kernels map[string]kernel, tests []testBinary, scratch string) ([]outcome, error) {
	common := filepath.Join(scratch, "common.cpio")
	if err := commonImage(common, tests); err != nil {
		return nil, fmt.Errorf("build the image: %w", err)
	}
	if err := os.MkdirAll(o.consoles, 0o755); err != nil {
		return nil, err
	}
	outcomes := make([]outcome, len(due))
	turns := make(chan struct{}, o.atOnce)
	var all sync.WaitGroup
	for i, m := range due {
		turns <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		all.Go(func() {
			defer func() { <-turns }()
			result := outcome{machine: m, kernel: kernels[m.release]}
			start := time.Now()
			result.err = result.boot(ctx, o, tests, common, scratch)
			result.took = time.Since(start)
			result.tell()
			outcomes[i] = result
		})
	}
	all.Wait()
	return outcomes, ctx.Err()
}

// boot boots the machine and collects what its tests print.
func (r *outcome) boot(ctx context.Context, o options, tests []testBinary, common, scratch string) error {
	p := plan{Cgroups: r.cgroups}
	limit := bootPatience
	for _, t := range tests {
		names, err := t.due(o, r.cgroups)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			continue
		}
		r.suites = append(r.suites, suiteOutcome{testBinary: t, due: names})
		p.Suites = append(p.Suites, planned{
			Folder: t.folder, Binary: t.inside(), Directory: t.source(), Tests: names,
			Modules: t.modules, Scratch: t.tag != "vm", Timeout: o.suitePatience(),
		})
		limit += o.suitePatience()
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	initrd, err := r.image(common, scratch, p)
	if err != nil {
		return fmt.Errorf("build the image: %w", err)
	}
	defer os.Remove(initrd)
	console := filepath.Join(o.consoles, r.name+".console")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", // KVM is not to be had everywhere
		"-smp", strconv.Itoa(o.processors()), "-m", "1536M", "-cpu", "max,-erms", // whose string instructions TCG does byte by byte
		// A kernel that measures its processor's clock by the PIT finds it many times too slow on a busy host.
		"-machine", "pc,pit=off",
		"-nodefaults", "-no-user-config", "-nic", "none", "-display", "none", "-no-reboot",
		"-serial", "file:"+console, "-chardev", "stdio,id=report", "-serial", "chardev:report",
		"-kernel", r.kernel.image, "-initrd", initrd,
		"-append", "console=ttyS0 panic=-1 "+vmMark+" quiet nowatchdog cryptomgr.notests "+
			"clocksource=hpet") // which goes as the host's
	stderr := &strings.Builder{}
	cmd.Stderr = stderr
	reports, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	last, err := r.collect(reports)
	if err != nil {
		_ = cmd.Process.Kill()
	}
	if ended := cmd.Wait(); err == nil {
		err = ended
	}
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("the machine took longer than %s", limit)
	} else if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil && last.Error != "" {
		err = errors.New(last.Error)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s%s", err, stderr, tail(console, 40))
	}
	if len(last.Kernel) > 0 {
		return fmt.Errorf("the kernel complains:\n%s", strings.Join(last.Kernel, "\n"))
	}
	return nil
}

// vmMark on a kernel's command line says that this is one of these machines.
const vmMark = "imds-bridge-vm"

func (r *outcome) image(common, scratch string, p plan) (string, error) {
	own := filepath.Join(scratch, r.name+".own")
	if err := machineImage(own, r.kernel, p); err != nil {
		return "", err
	}
	defer os.Remove(own)
	whole, err := os.Create(filepath.Join(scratch, r.name+".cpio"))
	if err != nil {
		return "", err
	}
	for _, part := range []string{common, own} {
		f, err := os.Open(part)
		if err != nil {
			return "", errors.Join(err, whole.Close())
		}
		_, err = io.Copy(whole, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return "", errors.Join(err, whole.Close())
		}
	}
	return whole.Name(), whole.Close()
}

// collect reads the events of a machine until its end, and returns the last one.
func (r *outcome) collect(reports io.Reader) (last event, err error) {
	for events := json.NewDecoder(reports); ; {
		var e event
		if err := events.Decode(&e); err != nil {
			return e, fmt.Errorf("the machine ended before its tests did: %w", err)
		}
		if r.start == 0 {
			r.start = e.Uptime
		}
		if e.Suite == "" {
			return e, nil
		}
		for i := range r.suites {
			if s := &r.suites[i]; s.folder == e.Suite {
				s.output = append(s.output, e.Output...)
				if e.Ended != nil {
					s.ended = e.Ended
				}
			}
		}
	}
}

// tail returns the last lines of a file.
func tail(file string, n int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
