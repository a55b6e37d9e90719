//go:build root

package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

// Callers that speak v2 by themselves get through a deadlock with tokens of before and after it.
func TestDeadlockedBridgeFailsNoV2Call(t *testing.T) {
	l, _ := newInstance(t)
	b := startStuckBridge(t, l, "open")
	token := fetchToken(t, l)
	for range 3 {
		b.tell(t, unix.SIGUSR1, "user defined signal 1")
		time.Sleep(time.Second)
		during := fetchToken(t, l)
		askWith(t, l, token)
		askWith(t, l, during)
		b.tell(t, unix.SIGUSR2, "user defined signal 2")
		time.Sleep(time.Second)
		askWith(t, l, during)
		token = fetchToken(t, l)
		askWith(t, l, token)
	}
	b.end(t)
}

func fetchToken(t *testing.T, l *lab.Lab) string {
	t.Helper()
	return v2Curl(t, l, "/latest/api/token", "--request", "PUT", "--header", "X-aws-ec2-metadata-token-ttl-seconds: 60")
}

func askWith(t *testing.T, l *lab.Lab, token string) {
	t.Helper()
	if got := v2Curl(t, l, "/latest/meta-data/instance-id", "--header", "X-aws-ec2-metadata-token: "+token); !strings.HasPrefix(got, "i-") {
		t.Errorf("a v2 call is answered by %q", got)
	}
}

func v2Curl(t *testing.T, l *lab.Lab, path string, options ...string) string {
	t.Helper()
	curl := exec.Command("curl", append([]string{"-sS", "--fail", "--max-time", "2", "http://169.254.169.254" + path}, options...)...)
	var said strings.Builder
	curl.Stdout, curl.Stderr = &said, &said
	if err := l.Host().Start(curl); err != nil {
		t.Fatal(err)
	}
	if err := curl.Wait(); err != nil {
		t.Fatalf("a v2 call failed: %v, %s", err, &said)
	}
	return said.String()
}
