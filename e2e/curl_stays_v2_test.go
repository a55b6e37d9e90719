package e2e

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func TestCurlStaysV2(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
	key := i.credentials(t).AccessKeyID
	ask := func(start func(*exec.Cmd) error) (put, get ended, requests []simulator.Request) {
		put = finish(t, start, curl("/latest/api/token", "--request", "PUT", "--header", "X-aws-ec2-metadata-token-ttl-seconds: 60"))
		get = finish(t, start, curl(role, "--header", "X-aws-ec2-metadata-token: "+put.stdout))
		if put.err != nil || get.err != nil || !strings.Contains(get.stdout, key) {
			t.Fatalf("token: %v, %q; credentials: %v, %q", put.err, put.stdout, get.err, get.stdout)
		}
		defer i.imds.Reset()
		return put, get, i.imds.Requests()
	}
	_, _, direct := ask(i.Host().StartOutside)
	b := i.startBridge(t, bridgeOptions{})
	bridgeToken := i.bridgeToken(t)
	put, get, bridged := ask(i.Host().Start)

	if len(bridged) != len(direct) {
		t.Fatalf("requests that reached IMDS\n%v\nwithout the bridge\n%v", heads(bridged), heads(direct))
	}
	for n := range direct {
		checkSame(t, direct[n], bridged[n])
	}
	token := put.stdout
	if got := bridged[1].Header[tokenHeader]; len(got) != 1 || got[0] != token || token == bridgeToken {
		t.Errorf("token %q reached IMDS, want the caller's own, %s; the bridge's is %s", got, token, bridgeToken)
	}
	for _, want := range []struct {
		process ended
		version string
	}{{put, "token"}, {get, "v2"}} {
		line := b.calls(t, 1, pid(want.process.Process.Pid))[0]
		if line.Version != want.version || line.Upgraded || line.Verdict != "pass" || line.Level != "DEBUG" || line.Status != http.StatusOK {
			t.Errorf("log line: %s", line.raw)
		}
	}
	if v1 := b.calls(t, 1, func(r record) bool { return r.Version == "v1" }); len(v1) != 1 {
		t.Errorf("%d v1 calls in the log, want the one before alone", len(v1))
	}
}
