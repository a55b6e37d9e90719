package doctor

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/imds"
)

func TestRoutesOfOtherNamespaces(t *testing.T) {
	t.Parallel()
	const heading = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	for name, tt := range map[string]struct {
		table string
		want  bool
	}{
		"open":               {capture(t, "open.route"), false},
		"blackhole":          {capture(t, "blackhole.route"), true}, // as vpc-branch-eni and ecs-eni add it
		"prohibit":           {capture(t, "prohibit.route"), true},
		"of another network": {heading + "*\t0000000A\t00000000\t0005\t0\t0\t0\t000000FF\t0\t0\t0\n", false},
		"of the whole range": {heading + "*\t0000FEA9\t00000000\t0005\t0\t0\t0\t0000FFFF\t0\t0\t0\n", true},
		"of the range, with a way for the one": {heading + "*\t0000FEA9\t00000000\t0005\t0\t0\t0\t0000FFFF\t0\t0\t0\n" +
			"eth0\tFEA9FEA9\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n", false},
		"no network at all": {heading, false},
		"broken":            {"x y\n" + heading + "a b c d e f g h i j k\n", false},
	} {
		if got := blocks4(tt.table, imds.IPv4); got != tt.want {
			t.Errorf("%s: blocked %t", name, got)
		}
	}
	for name, want := range map[string]bool{"open.route6": false, "blackhole.route6": true} {
		if got := blocks6(capture(t, name), imds.IPv6); got != want {
			t.Errorf("%s: blocked %t", name, got)
		}
	}
}

func TestNamespaceFindings(t *testing.T) {
	t.Parallel()
	task := []blocked{{42, "nginx", "0123456789abcdef"}}
	expect(t, judgeNamespaces(task, 1, true, true), Limit, "container 0123456789ab", "pid 42", "ECS_AWSVPC_BLOCK_IMDS")
	expect(t, judgeNamespaces(task, 1, true, false), OK, "left alone")
	expect(t, judgeNamespaces(nil, 3, true, true), OK, "3 other")
	expect(t, judgeNamespaces(nil, 0, false, true), Unknown, "CAP_SYS_PTRACE")
}

func TestWays(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		way    way
		status Status
		words  []string
	}{
		{way{link: "eth0"}, OK, []string{"eth0"}},
		{way{err: unix.EINVAL, blocker: "blackhole"}, Fail, []string{"blackhole route", "ip route del"}},
		{way{err: unix.EACCES, blocker: "prohibit"}, Fail, []string{"prohibit route"}},
		{way{err: unix.EACCES, blocker: "prohibit", imdsd: true}, Fail, []string{"systemd-imdsd", "systemd.imds.network=unlocked"}},
		{way{err: unix.ENETUNREACH}, Fail, []string{"no route", "EC2"}},
		{way{err: unix.EPERM}, Fail, []string{"operation not permitted"}},
	} {
		tt.way.to = imds.IPv4
		expect(t, []Finding{tt.way.judge()}, tt.status, append(tt.words, "169.254.169.254")...)
	}
}
