//go:build root

package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
	"github.com/imds-bridge/imds-bridge/redirect/iptables"
	"github.com/imds-bridge/imds-bridge/simulator"
)

func init() { roles["doctor"] = beDoctor }

const optionsVariable = "DOCTOR_TEST_OPTIONS"

// task are options as JSON can carry them: two fields stand in the way of those of the options.
type task struct {
	Options
	Child, Guard struct{}
	// Patience is more than a doctor has, on a machine that many tests keep busy; 0 for what it has.
	Patience time.Duration
}

// beDoctor examines the host that this process is on, and writes the report.
func beDoctor() error {
	var given task
	if err := json.Unmarshal([]byte(os.Getenv(optionsVariable)), &given); err != nil {
		return err
	}
	o := given.Options
	o.Child = func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "/proc/self/exe")
		cmd.Env = []string{roleVariable + "=child", "GORACE=atexit_sleep_ms=0"}
		return cmd
	}
	o.Guard = func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{roleVariable + "=guard", "PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
		return cmd
	}
	if given.Patience == 0 {
		return Examine(context.Background(), o).WriteJSON(os.Stdout)
	}
	ctx, cancel := context.WithTimeout(context.Background(), given.Patience)
	defer cancel()
	return examine(ctx, o).WriteJSON(os.Stdout)
}

// instance is a host with a metadata service, both made for one test.
type instance struct {
	*lab.Lab
	imds *simulator.Simulator
}

func newInstance(t *testing.T, metadata simulator.MetadataOptions) *instance {
	t.Helper()
	i := newSilentInstance(t)
	sim, err := simulator.New(simulator.Options{Metadata: metadata})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	for _, at := range []string{"169.254.169.254:80", "[fd00:ec2::254]:80"} {
		l, err := i.IMDS().Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		t.Cleanup(func() { sim.Close(); <-served })
		go func() {
			defer close(served)
			if err := sim.Serve(l); err != nil {
				t.Error(err)
			}
		}()
	}
	i.imds = sim
	return i
}

// newSilentInstance is one where nothing listens in the metadata service's place.
func newSilentInstance(t *testing.T) *instance {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return &instance{Lab: l}
}

// options are those of the bridge's defaults, on the lab's cgroup.
func (i *instance) options(change ...func(*Options)) Options {
	o := settings()
	o.Cgroup = i.Cgroup()
	o.Upstream, o.Upstream6 = netip.MustParseAddrPort("169.254.169.254:80"), netip.MustParseAddrPort("[fd00:ec2::254]:80")
	o.Needs = map[Redirector][]string{
		EBPF: append(hook.Capabilities, caller.Capabilities...), None: hook.Capabilities, IPTables: iptables.Capabilities,
	}
	for _, f := range change {
		f(&o)
	}
	return o
}

// examine lets a process of the instance be the doctor. It leaves nothing behind.
func (i *instance) examine(t *testing.T, o Options, change ...func(*exec.Cmd)) Report {
	t.Helper()
	return i.do(t, task{Options: o, Patience: time.Minute}, change...)
}

func (i *instance) do(t *testing.T, given task, change ...func(*exec.Cmd)) Report {
	t.Helper()
	text, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	before := i.state(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=doctor", optionsVariable+"="+string(text), "GORACE=atexit_sleep_ms=0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, t.Output()
	for _, f := range change {
		f(cmd)
	}
	if err := i.Host().StartOutside(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if after := i.state(t); after != before {
		was := strings.Split(before, "\n")
		for line := range strings.Lines(after) {
			if !slices.Contains(was, strings.TrimRight(line, "\n")) {
				t.Errorf("the doctor made %s", line)
			}
		}
		t.Errorf("the host is not as it was, of %d lines", len(was))
	}
	return r
}

// state is what a doctor could change: addresses, routes, rules of both backends, cgroups and programs.
func (i *instance) state(t *testing.T) string {
	t.Helper()
	scratch, err := filepath.Glob(filepath.Join(i.Cgroup(), scratchName+"*"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, line := range [][]string{
		{"ip", "addr"}, {"ip", "route", "show", "table", "all"}, {"ip", "rule"},
		{"nft", "-s", "list", "ruleset"}, {"iptables-legacy-save"}, {"ip6tables-legacy-save"},
		{"cat", "/proc/net/ip_tables_names"},
	} {
		b.WriteString(i.command(t, line...))
	}
	// Counters and times are not what is asked about.
	var kept []string
	for l := range strings.Lines(b.String()) {
		if !strings.HasPrefix(l, "#") && !strings.HasPrefix(l, ":") {
			kept = append(kept, l)
		}
	}
	programs := hooks{}
	if err := programs.add(i.Cgroup(), here, true); err != nil {
		t.Fatal(err)
	}
	return strings.Join(kept, "") + strings.Join(scratch, "\n") + "\n" + programs.holder() + strings.Repeat("program\n", len(programs.programs))
}

// command runs a tool on the host and returns what it writes.
func (i *instance) command(t *testing.T, line ...string) string {
	t.Helper()
	cmd := exec.Command(line[0], line[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := i.Host().StartOutside(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %v: %s", line, err, out.String())
	}
	return out.String()
}

// attach puts a program on connect4 of the lab's cgroup that returns verdict to each call.
func (i *instance) attach(t *testing.T, name string, verdict int32, flags uint32) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dir, err := os.Open(i.Cgroup())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	// It goes with the cgroup.
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: p, Attach: ebpf.AttachCGroupInet4Connect, Flags: flags,
	}); err != nil {
		t.Fatal(err)
	}
}

func expectVerdict(t *testing.T, r Report, want Verdict, redirector Redirector) {
	t.Helper()
	if r.Verdict != want || r.Redirector != redirector {
		t.Errorf("%s by %q, want %s by %q", r.Verdict, r.Redirector, want, redirector)
		for _, f := range r.Findings {
			if f.Status != OK {
				t.Logf("%+v", f)
			}
		}
	}
}
