package e2e

import (
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// TestPassiveWatchesWithoutTouching: with redirector none IMDS sees what clients send, byte for byte,
// and each call is told as the proxy would tell it.
func TestPassiveWatchesWithoutTouching(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		client  client
		version string
	}{
		// Twice: a process that ends with the answer can be gone, on a busy machine, before it is named
		// by more than the kernel's record.
		"curl":             {curlTwice("http://169.254.169.254" + role), "v1"},
		"curl over IPv6":   {curlTwice("http://[fd00:ec2::254]" + role), "v1"},
		"boto2, v1 alone":  {client{args: []string{debianPython, "clients/boto2/credentials.py"}, agent: "Python-urllib/3."}, "v1"},
		"boto3, speaks v2": {client{args: []string{debianPython, "clients/boto3/credentials.py"}, agent: "Boto3/1."}, "v2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInstance(t, simulator.Options{})
			key := i.credentials(t).AccessKeyID
			_, direct := i.watch(t, i.Host().StartOutside, test.client, key)

			b := i.startBridge(t, bridgeOptions{flags: []string{"--redirector=none"}})
			process, watched := i.watch(t, i.Host().Start, test.client, key)
			if len(watched) != len(direct) {
				t.Fatalf("requests that reached IMDS\n%v\nwithout the bridge\n%v", heads(watched), heads(direct))
			}
			for n := range direct {
				checkSame(t, direct[n], watched[n])
			}
			lines := b.calls(t, len(direct), pid(process.Process.Pid))
			checkLogged(t, lines, direct)
			for _, line := range lines {
				checkNamed(t, line, process, test.client)
				if line.Upgraded || line.Verdict != "pass" || line.Reason != "watched" {
					t.Errorf("log line: %s", line.raw)
				}
				if line.Version != test.version && line.Version != "token" {
					t.Errorf("version %s, want %s: %s", line.Version, test.version, line.raw)
				}
			}
			_, metrics := b.get("/metrics")
			if !strings.Contains(metrics, `imds_version="`+test.version+`"`) {
				t.Errorf("no %s calls among the metrics", test.version)
			}
			if i.hasAddress(t, listenAddresses[0]) {
				t.Error("a bridge that only watches listens")
			}
		})
	}
}

func curlTwice(url string) client {
	c := curlAt(url)
	c.args = append(c.args, url)
	return c
}
