package doctor

import "testing"

func TestKernelReleases(t *testing.T) {
	t.Parallel()
	for release, want := range map[string]Kernel{
		"4.14.355-275.572.amzn2.x86_64":    {4, 14},
		"5.10.225-213.878.amzn2.x86_64":    {5, 10},
		"6.1.102-108.177.amzn2023.aarch64": {6, 1},
		"6.12.22+bpo-cloud-amd64":          {6, 12},
		"5.4.0-1103-aws":                   {5, 4},
		"4.18.0-553.el8_10.x86_64":         {4, 18},
		"10.0":                             {10, 0},
		"6":                                {},
		"":                                 {},
	} {
		if got := ParseKernel(release); got != want {
			t.Errorf("%q is %v, want %v", release, got, want)
		}
	}
	expect(t, judgeKernel("5.4.0-1103-aws"), Fail, "5.4.0-1103-aws", "5.10", "redirector: iptables")
	expect(t, judgeKernel("6.1.102"), OK, "6.1.102")
	expect(t, judgeKernel("Plan 9"), Unknown, "Plan 9")
}

func TestLockdown(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"[none] integrity confidentiality\n": "none",
		"none [integrity] confidentiality\n": "integrity",
		"none integrity [confidentiality]\n": "confidentiality",
		"":                                   "",
	} {
		if got := ParseLockdown(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	expect(t, judgeLockdown("confidentiality"), Fail, "confidentiality", "lockdown=integrity")
	expect(t, judgeLockdown("integrity"), OK, "integrity")
}

func TestMemlock(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kernel   Kernel
		limit    uint64
		mayRaise bool
		want     bool
	}{
		{Kernel{5, 10}, 64 << 10, false, false},
		{Kernel{5, 10}, 64 << 10, true, true},
		{Kernel{5, 10}, ^uint64(0), false, true},
		{Kernel{5, 11}, 64 << 10, false, true},
		{Kernel{}, 64 << 10, false, true},
	} {
		if got := hasMemlock(tt.kernel, tt.limit, tt.mayRaise); got != tt.want {
			t.Errorf("%+v: %t", tt, got)
		}
	}
}

// Status as the kernel writes it for root, in a container of Docker's, and for a user.
const (
	rootStatus   = "Name:\tcat\nUid:\t0\t0\t0\t0\nCapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\nNoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n"
	dockerStatus = "Name:\tcat\nUid:\t0\t0\t0\t0\nCapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n"
	userStatus   = "Name:\tcat\nUid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t0\n"
)

func TestCapabilities(t *testing.T) {
	t.Parallel()
	names := []string{"CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW"}
	root, docker, user := parseStatus(rootStatus), parseStatus(dockerStatus), parseStatus(userStatus)
	if got := root.effective.missing(names); len(got) != 0 || root.seccomp {
		t.Errorf("root misses %v, seccomp %t", got, root.seccomp)
	}
	// Docker leaves CAP_NET_RAW by default.
	if got := docker.effective.missing(names); len(got) != 2 || !docker.seccomp {
		t.Errorf("a container misses %v, seccomp %t", got, docker.seccomp)
	}
	if got := user.effective.missing(names); len(got) != 3 || !user.noNewPrivs {
		t.Errorf("a user misses %v, no_new_privs %t", got, user.noNewPrivs)
	}
	admin := capabilitySet(1 << capabilityBits["CAP_SYS_ADMIN"])
	if got := admin.missing(names); len(got) != 2 {
		t.Errorf("CAP_SYS_ADMIN stands in for CAP_BPF alone: %v", got)
	}
	for status, set := range map[Status]capabilitySet{OK: root.effective, Fail: docker.effective} {
		expect(t, []Finding{judgeCapabilities(EBPF, names, set, true)}, status, "CAP_BPF")
	}
	expect(t, []Finding{judgeCapabilities(IPTables, nil, user.effective, false)}, OK, "none is needed")
	expect(t, []Finding{judgeCapabilities(EBPF, names, user.effective, false)}, Fail, "this user lacks CAP_BPF CAP_NET_ADMIN CAP_NET_RAW", "as root")
}
