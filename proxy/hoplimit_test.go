package proxy

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/policy"
)

// received makes the bridge believe that IMDS's answers arrive with a hop limit.
func received(hops int) Upstream {
	return Upstream{WatchHopLimit: func(int) (func() (int, error), error) {
		return func() (int, error) { return hops, nil }, nil
	}}
}

var tokenRequest = ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60", "Content-Length: 0")

// TestTokenGoesAsFarAsIMDSMeantItTo asks from a container at a socket that takes only segments
// with at least so many hops left.
func TestTokenGoesAsFarAsIMDSMeantItTo(t *testing.T) {
	t.Parallel()
	container := &caller.Peer{Original: netip.MustParseAddrPort("169.254.169.254:80")}
	for _, c := range []struct {
		name      string
		hops      int
		peer      *caller.Peer
		policy    policy.Policy
		least     int
		delivered bool
	}{
		{"limit 2 reaches a container", 2, container, upgradeHost, 1, true},
		{"limit 2 reaches no container within it", 2, container, upgradeHost, 2, false},
		{"limit 3 reaches a container within it", 3, container, upgradeHost, 2, true},
		{"limit 1 reaches no container", 1, container, upgradeHost, 1, false},
		{"an unknown limit counts as 1", 0, container, upgradeHost, 1, false},
		{"limit 1 is no concern of the host", 1, nil, upgradeHost, 32, true},
		{"limit 1, written choice", 1, container, policy.Policy{Mode: policy.UpgradeCalls, ContainersV1: policy.Pass, ContainersTokens: policy.ForwardTokens}, 32, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := setup{metadata: required, policy: c.policy, peer: c.peer, upstream: received(c.hops)}.start(t)
			answer := sendWithMinTTL(t, b.addr, tokenRequest, c.least)
			if got := statusOf(answer) == "200"; got != c.delivered {
				t.Errorf("answer %q, want it delivered: %v", answer, c.delivered)
			}
		})
	}
}

// sendWithMinTTL returns what arrives within a second with at least ttl hops left.
func sendWithMinTTL(t *testing.T, addr, raw string, ttl int) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rc, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MINTTL, ttl) })
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(time.Second))
	io.WriteString(c, raw)
	answer, _ := io.ReadAll(c)
	return string(answer)
}

func TestWithheldAnswerIsReported(t *testing.T) {
	t.Parallel()
	b := setup{metadata: required, peer: &caller.Peer{}, upstream: received(1)}.start(t)
	if answer, err := trySend(b.addr, tokenRequest, 300*time.Millisecond); answer != "" {
		t.Errorf("answer %q, %v", answer, err)
	}
	waitFor(t, "the report", func() bool { return strings.Contains(b.logs.String(), `"error":"hop_limit"`) })
}
