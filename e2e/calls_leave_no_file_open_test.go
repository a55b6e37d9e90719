package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestCallsLeaveNoFileOpen(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	b := i.startBridge(t, bridgeOptions{})
	i.callEachWay(t, 8) // with all at once, as later: what is opened once is open now
	before := b.settledFiles(t)

	i.callEachWay(t, 70)
	if n := i.imds.Counts().Requests; n < 3*70 {
		t.Fatalf("%d calls, want 210 or more", n)
	}
	await(t, fmt.Sprintf("%d open files, as before", before), 10*time.Second, func() bool { return b.files(t) == before })
	if after := b.settledFiles(t); after != before {
		t.Errorf("%d open files before, %d after", before, after)
	}
}

// callEachWay makes n calls by IMDSv1, n for tokens and n by IMDSv2, each on a connection of its own.
func (i *instance) callEachWay(t *testing.T, n int) {
	t.Helper()
	token := finish(t, i.Host().Start, curl("/latest/api/token", putToken...))
	if token.err != nil {
		t.Fatalf("token: %v, %s", token.err, token.stderr)
	}
	i.callOften(t, n, role)
	i.callOften(t, n, "/latest/api/token", putToken...)
	i.callOften(t, n, role, "--header", tokenHeader+": "+token.stdout)
}

var putToken = []string{"--request", "PUT", "--header", "X-aws-ec2-metadata-token-ttl-seconds: 60"}

func (i *instance) callOften(t *testing.T, n int, path string, options ...string) {
	t.Helper()
	options = append([]string{"--header", "Connection: close", "--parallel", "--parallel-max", "8"}, options...)
	call := curl(path, options...)
	for range n - 1 {
		call.Args = append(call.Args, call.Args[len(call.Args)-1])
	}
	if got := finish(t, i.Host().Start, call); got.err != nil || strings.Contains(got.stdout, "<html") {
		t.Fatalf("%d calls for %s: %v, %s", n, path, got.err, got.stderr)
	}
}

// files counts what the bridge has open.
func (b *bridge) files(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// settledFiles waits until the count has stayed the same for a while.
func (b *bridge) settledFiles(t *testing.T) (n int) {
	t.Helper()
	since := time.Now()
	await(t, "open files settle", 10*time.Second, func() bool {
		if now := b.files(t); now != n {
			n, since = now, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond
	})
	return n
}
