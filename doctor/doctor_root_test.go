//go:build root

package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestCleanHostIsUsable(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.MetadataOptions{})
	r := i.examine(t, i.options())
	expectVerdict(t, r, Usable, EBPF)
	expect(t, r.Findings, OK, "a child's connect() to 169.254.169.254:80 came to a listener of ours")
	expect(t, r.Findings, OK, "169.254.169.254:80 hands out tokens")
	expect(t, r.Findings, OK, "[fd00:ec2::254]:80 hands out tokens")
	expect(t, r.Findings, OK, "169.254.169.254 is reached by eth0")
	if seen := i.imds.Counts(); seen.V1 != 0 {
		t.Errorf("a call by v1 was made, and nobody asked for it: %+v", seen)
	}
}

func TestV1IsAskedOnRequest(t *testing.T) {
	t.Parallel()
	for tokens, want := range map[string]string{simulator.TokensOptional: "v1 is allowed", simulator.TokensRequired: "v1 is off"} {
		i := newInstance(t, simulator.MetadataOptions{HTTPTokens: tokens})
		r := i.examine(t, i.options(func(o *Options) { o.AskV1 = true }))
		expectVerdict(t, r, Usable, EBPF)
		expect(t, r.Findings, OK, want, "CloudWatch")
	}
}

func TestHopLimitIsRead(t *testing.T) {
	t.Parallel()
	for hops, want := range map[int]string{1: "no further", 2: "1 hop beyond", 64: "63 hops beyond"} {
		i := newInstance(t, simulator.MetadataOptions{HTTPPutResponseHopLimit: hops})
		r := i.examine(t, i.options())
		expect(t, r.Findings, OK, want)
		expectVerdict(t, r, Usable, EBPF)
	}
}

func TestMetadataServiceThatDoesNotServe(t *testing.T) {
	t.Parallel()
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		i := newSilentInstance(t)
		r := i.examine(t, i.options())
		expectVerdict(t, r, Useless, EBPF)
		expect(t, r.Findings, Fail, "169.254.169.254:80 cannot be reached: connection refused")
	})
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		i := newInstance(t, simulator.MetadataOptions{})
		if err := i.imds.SetBehaviour(simulator.Behaviour{Drop: "hang"}); err != nil {
			t.Fatal(err)
		}
		r := i.examine(t, i.options(func(o *Options) { o.AskV1 = true }))
		expectVerdict(t, r, Useless, EBPF)
		expect(t, r.Findings, Fail, "takes the connection", "no answer in time")
		expect(t, r.Findings, Unknown, "no answer to a call without a token")
	})
	t.Run("off", func(t *testing.T) {
		t.Parallel()
		i := newInstance(t, simulator.MetadataOptions{HTTPEndpoint: simulator.Disabled})
		r := i.examine(t, i.options())
		expectVerdict(t, r, Limited, EBPF)
		expect(t, r.Findings, Limit, "403", "HttpEndpoint=disabled")
	})
}

func TestBlockingRoutesAreNamed(t *testing.T) {
	t.Parallel()
	t.Run("blackhole", func(t *testing.T) {
		t.Parallel()
		i := newInstance(t, simulator.MetadataOptions{})
		i.command(t, "ip", "route", "replace", "blackhole", "169.254.169.254")
		r := i.examine(t, i.options())
		expectVerdict(t, r, Useless, EBPF)
		expect(t, r.Findings, Fail, "a blackhole route for 169.254.169.254", "ip route del")
	})
	t.Run("systemd-imdsd", func(t *testing.T) {
		t.Parallel()
		i := newInstance(t, simulator.MetadataOptions{})
		i.command(t, "ip", "route", "replace", "prohibit", "169.254.169.254")
		i.command(t, "ip", "route", "add", "169.254.169.254", "dev", "eth0", "scope", "link", "table", "2147420181")
		i.command(t, "ip", "rule", "add", "fwmark", "0x7fff0815", "table", "2147420181")
		r := i.examine(t, i.options())
		expectVerdict(t, r, Useless, EBPF)
		expect(t, r.Findings, Fail, "systemd-imdsd", "systemd.imds.network=unlocked")
	})
	t.Run("IPv6 alone", func(t *testing.T) {
		t.Parallel()
		i := newInstance(t, simulator.MetadataOptions{})
		i.command(t, "ip", "-6", "route", "replace", "unreachable", "fd00:ec2::254")
		r := i.examine(t, i.options())
		expectVerdict(t, r, Limited, EBPF)
		expect(t, r.Findings, Limit, "unreachable route for fd00:ec2::254")
	})
	t.Run("of a container", func(t *testing.T) {
		t.Parallel()
		i := newInstance(t, simulator.MetadataOptions{})
		const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
		task, err := i.AddContainer("docker-" + id + ".scope")
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range [][]string{{"ip", "route", "add", "blackhole", "169.254.169.254/32"}, {"sleep", "60"}} {
			cmd := exec.Command(line[0], line[1:]...)
			if err := task.Start(cmd); err != nil {
				t.Fatal(err)
			}
			if line[0] == "ip" {
				if err := cmd.Wait(); err != nil {
					t.Fatal(err)
				}
				continue
			}
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		}
		r := i.examine(t, i.options())
		expectVerdict(t, r, Limited, EBPF)
		expect(t, r.Findings, Limit, "sleep", "ECS_AWSVPC_BLOCK_IMDS")
	})
}

func TestRulesInTheWayAreNamed(t *testing.T) {
	t.Parallel()
	for _, iptables := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(iptables, func(t *testing.T) {
			t.Parallel()
			i := newInstance(t, simulator.MetadataOptions{})
			if _, err := i.AddContainer("one"); err != nil {
				t.Fatal(err)
			}
			expectVerdict(t, i.examine(t, i.options()), Usable, EBPF)

			i.command(t, iptables, "-A", "INPUT", "-i", "lo", "-j", "ACCEPT")
			i.command(t, iptables, "-P", "INPUT", "DROP")
			// Answers to the bridge are let in, and to the doctor.
			i.command(t, iptables, "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
			r := i.examine(t, i.options())
			expectVerdict(t, r, Useless, EBPF)
			expect(t, r.Findings, Fail, iptables, "policy DROP of INPUT", "containers on c1", "-I INPUT -i c1 -d 169.254.20.254")
			r = i.examine(t, i.options(func(o *Options) { o.Containers = false }))
			expectVerdict(t, r, Usable, EBPF)

			// The remedy is one.
			i.command(t, iptables, "-I", "INPUT", "-i", "c1", "-d", "169.254.20.254", "-p", "tcp", "--dport", "8254", "-j", "ACCEPT")
			expectVerdict(t, i.examine(t, i.options()), Usable, EBPF)

			i.command(t, iptables, "-A", "OUTPUT", "-d", "169.254.169.254", "-j", "REJECT")
			r = i.examine(t, i.options())
			expectVerdict(t, r, Useless, EBPF)
			expect(t, r.Findings, Fail, "the bridge itself does not reach")
		})
	}
}

func TestOtherProgramsOnTheHook(t *testing.T) {
	t.Parallel()
	const proceed, deny = 1, 0
	t.Run("shared", func(t *testing.T) {
		t.Parallel()
		i := newInstance(t, simulator.MetadataOptions{})
		i.attach(t, "cil_sock4_conn", proceed, allowMulti)
		r := i.examine(t, i.options())
		expectVerdict(t, r, Usable, EBPF)
		expect(t, r.Findings, OK, "cil_sock4_conn", "multi", "Cilium")
	})
	t.Run("exclusive", func(t *testing.T) {
		t.Parallel()
		i := newInstance(t, simulator.MetadataOptions{})
		i.attach(t, "alone", proceed, 0)
		r := i.examine(t, i.options())
		// Rules work, and are not taken by themselves for a part of a host.
		expectVerdict(t, r, Useless, "")
		expect(t, r.Findings, Fail, "alone", "exclusive", "BPF_F_ALLOW_MULTI")
		expect(t, r.Findings, Fail, "create link: operation not permitted") // the trial
		expect(t, r.Findings, Fail, "rules redirect the whole network namespace")
		expect(t, r.Findings, OK, "in a namespace of its own, a child's connect() to 169.254.169.254:80 came to a listener")
		expectVerdict(t, i.examine(t, i.options(func(o *Options) { o.Redirector = EBPF })), Useless, "")
		expectVerdict(t, i.examine(t, i.options(func(o *Options) { o.Redirector = IPTables })), Usable, IPTables)
	})
	// Every fact is right, and the hook does not work: the trial is what tells.
	t.Run("one that refuses", func(t *testing.T) {
		t.Parallel()
		i := newInstance(t, simulator.MetadataOptions{})
		i.attach(t, "refuse", deny, allowMulti)
		r := i.examine(t, i.options(func(o *Options) { o.Redirector = EBPF }))
		expectVerdict(t, r, Useless, "")
		expect(t, r.Findings, Fail, "was not redirected: operation not permitted")
		expectVerdict(t, i.examine(t, i.options(func(o *Options) { o.Redirector = IPTables })), Usable, IPTables)
	})
}

// as makes a process one of another user, with some capabilities and no others.
func as(names ...string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
		for _, name := range names {
			attr.AmbientCaps = append(attr.AmbientCaps, uintptr(capabilityBits[name]))
		}
		cmd.SysProcAttr = attr
	}
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.MetadataOptions{})
	all := i.options().Needs[EBPF]
	for _, lacking := range all {
		others := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return name == lacking })
		r := i.examine(t, i.options(func(o *Options) { o.Redirector = EBPF }), as(others...))
		expectVerdict(t, r, Useless, "")
		expect(t, r.Findings, Fail, "this user lacks "+lacking)
	}
	// With all of them the bridge runs; to make a cgroup for a trial takes more.
	r := i.examine(t, i.options(func(o *Options) { o.Redirector = EBPF }), as(all...))
	expectVerdict(t, r, Limited, EBPF)
	expect(t, r.Findings, Unknown, "a scratch cgroup cannot be made")
}

func TestOrdinaryUserIsToldWhatCouldNotBeSeen(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.MetadataOptions{})
	r := i.examine(t, i.options(), as())
	expectVerdict(t, r, Useless, "")
	for _, words := range []string{"what is attached may not be asked for", "rules may be listed with CAP_NET_ADMIN", "not tried"} {
		expect(t, r.Findings, Unknown, words, "as root")
	}
	expect(t, r.Findings, OK, "169.254.169.254:80 hands out tokens")
	expect(t, r.Findings, OK, vmlinux)

	// A sidecar needs nothing: somebody else installs its rules.
	r = i.examine(t, i.options(func(o *Options) {
		o.Redirector, o.Install, o.Needs = IPTables, false, nil
	}), as())
	expectVerdict(t, r, Limited, IPTables)
	expect(t, r.Findings, OK, "none is needed")
}

func TestIPTablesIsTried(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.MetadataOptions{})
	r := i.examine(t, i.options(func(o *Options) { o.Redirector = IPTables }))
	expectVerdict(t, r, Usable, IPTables)
	expect(t, r.Findings, OK, "in a namespace of its own")
	for _, f := range r.Findings {
		if f.Check == "trial-ebpf" {
			t.Errorf("the hook was tried, which nobody asked for: %+v", f)
		}
	}
}

func TestPassiveNeedsTheHook(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.MetadataOptions{})
	passive := i.options(func(o *Options) { o.Redirector = None })
	expectVerdict(t, i.examine(t, passive), Usable, None)
	i.attach(t, "alone", 1, 0)
	expectVerdict(t, i.examine(t, passive), Useless, "")
}

func TestListenerThatIsTaken(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.MetadataOptions{})
	l, err := i.Host().Listen("tcp", "0.0.0.0:8254")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := i.examine(t, i.options())
	expectVerdict(t, r, Useless, EBPF)
	expect(t, r.Findings, Fail, "169.254.20.254:8254 is taken by doctor.test", "redirect.listen")
}

func TestCgroupThatIsNone(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.MetadataOptions{})
	o := i.options(func(o *Options) { o.Cgroup = "/proc" })
	r := i.examine(t, o)
	expectVerdict(t, r, Limited, IPTables)
	expect(t, r.Findings, Fail, "/proc", "cgroup2")
}

func TestScratchOfADeadDoctorIsSwept(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.MetadataOptions{})
	left, fresh := filepath.Join(i.Cgroup(), scratchName+"1"), filepath.Join(i.Cgroup(), scratchName+"2")
	for _, dir := range []string{left, fresh} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	scratch, err := makeScratch(i.Cgroup())
	if err != nil {
		t.Fatal(err)
	}
	if err := removeScratch(scratch); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{left: false, fresh: true, scratch: false} {
		if there := unix.Access(dir, unix.F_OK) == nil; there != want {
			t.Errorf("%s is there: %t", dir, there)
		}
	}
}

// Of all hosts, the one whose metadata service hangs takes longest. Not parallel: it is about time.
func TestExaminationIsQuick(t *testing.T) {
	i := newInstance(t, simulator.MetadataOptions{})
	if err := i.imds.SetBehaviour(simulator.Behaviour{Drop: "hang"}); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	i.do(t, task{Options: i.options(func(o *Options) { o.AskV1 = true })})
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// Look is what a start asks: it must not hold it up.
func TestLookIsQuick(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.MetadataOptions{})
	o := i.options()
	started := time.Now()
	var f Facts
	if err := i.Host().Do(func() error { f = Look(o); return nil }); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took > 500*time.Millisecond {
		t.Errorf("it took %s", took)
	}
	if taken, _, err := Choose(f); taken != EBPF || err != nil {
		t.Errorf("%s, %v: %+v", taken, err, f)
	}
}

// A trial whose hook does nothing must not reach the metadata service: the child's socket is bound to
// loopback.
func TestTrialSendsNothing(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.MetadataOptions{})
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=child", "GORACE=atexit_sleep_ms=0")
	cmd.Stdin = strings.NewReader(goAhead)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, t.Output()
	if err := i.Host().Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(out.String(), " invalid argument\n") {
		t.Errorf("the child says %q", out.String())
	}
	if seen := i.imds.Counts(); seen.Connections != 0 {
		t.Errorf("%+v", seen)
	}
}
