package doctor

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestIMDSFindings(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddrPort("169.254.169.254:80")
	for _, tt := range []struct {
		probe  probe
		status Status
		words  []string
	}{
		{probe{token: 200, data: 200}, OK, []string{"hands out tokens"}},
		{probe{token: 200, data: 404}, Limit, []string{"404"}},
		{probe{token: 403}, Limit, []string{"HttpEndpoint=disabled", "--http-endpoint enabled"}},
		{probe{token: 405}, Limit, []string{"405", "passed as they came"}},
		{probe{err: unix.ENETUNREACH}, Fail, []string{"network is unreachable", "EC2"}},
		{probe{connected: true, err: errors.New("no answer in time")}, Fail, []string{"no answer in time", "hop"}},
	} {
		expect(t, []Finding{judgeIMDS(at, tt.probe)}, tt.status, append(tt.words, "169.254.169.254:80")...)
	}
	for _, tt := range []struct {
		probe  probe
		status Status
		words  []string
	}{
		{probe{token: 200, marked: true, hopLimit: 1}, OK, []string{"no further", "get no tokens"}},
		{probe{token: 200, marked: true, hopLimit: 2}, OK, []string{"1 hop beyond"}},
		{probe{token: 200, marked: true, hopErr: unix.EPERM}, Unknown, []string{"CAP_BPF"}},
		{probe{token: 200, hopLimit: 64}, Unknown, []string{"the bridge's own", "CAP_NET_ADMIN"}},
		{probe{}, Unknown, []string{"no answer"}},
	} {
		expect(t, []Finding{judgeHopLimit(tt.probe)}, tt.status, tt.words...)
	}
	expect(t, []Finding{judgeV1(probe{v1: 200})}, OK, "allowed", "MetadataNoToken")
	expect(t, []Finding{judgeV1(probe{v1: 401})}, OK, "off", "MetadataNoTokenRejected")
	expect(t, []Finding{judgeV1(probe{v1: 500})}, Unknown, "500")
	expect(t, []Finding{judgeV1(probe{})}, Unknown, "no answer")
}

func TestHoldersOfTheListenersAddress(t *testing.T) {
	t.Parallel()
	expect(t, []Finding{judgeHolder(listen4, "redirect.listen", []process{{5, "nginx"}}, false)}, Fail, "nginx (pid 5)", "redirect.listen")
	expect(t, []Finding{judgeHolder(listen4, "redirect.listen", []process{{5, "imds-bridge"}}, true)}, OK, "imds-bridge (pid 5)")
	expect(t, []Finding{judgeHolder(listen6, "redirect.listen6", nil, false)}, Fail, "may not be seen", "redirect.listen6")
	expect(t, []Finding{judgeHolder(listen4, "redirect.listen", nil, true)}, Unknown, "a bridge runs")
	for line, want := range map[string]bool{
		"/usr/bin/imds-bridge\x00run\x00": true, "imds-bridge\x00run\x00--mode\x00observe\x00": true,
		"/usr/bin/imds-bridge\x00doctor\x00": false, "vi\x00run\x00": false, "": false, "imds-bridge": false,
	} {
		if isBridge(line) != want {
			t.Errorf("%q: %t", line, !want)
		}
	}
}

func TestReversePath(t *testing.T) {
	t.Parallel()
	link := docker0()[0]
	expect(t, judgeReversePath(link, "1", false), Limit, "rp_filter=1 on docker0", "172.17.0.0/16")
	for filter, back := range map[string]bool{"1": true, "2": false, "0": false, "": false} {
		if f := judgeReversePath(link, filter, back); len(f) > 0 {
			t.Errorf("rp_filter %q, %t: %+v", filter, back, f)
		}
	}
}
