package e2e

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// A firewall keeps redirected connections from the listener. A bridge that took this for ready would
// leave every caller without IMDS.
func TestBrokenHookIsNeverReady(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	for _, program := range []string{"iptables", "ip6tables"} {
		rule := exec.Command(program, "-A", "INPUT", "-p", "tcp", "--dport", "8254", "-j", "DROP")
		if got := finish(t, i.Host().StartOutside, rule); got.err != nil {
			t.Fatalf("%s: %v, %s", program, got.err, got.stderr)
		}
	}
	systemd := listenAsSystemd(t)
	b := i.launchBridge(t, bridgeOptions{env: []string{systemd.variable()}})

	unready := 0
	await(t, "the bridge gives up", 15*time.Second, func() bool {
		switch status, body := b.get("/readyz"); status {
		case http.StatusOK:
			t.Fatalf("/readyz: ready, %s", body)
		case http.StatusServiceUnavailable:
			unready++
		}
		select {
		case <-b.exited:
			return true
		default:
			return false
		}
	})
	if unready == 0 {
		t.Error("/readyz never answered: this test saw nothing")
	}
	if code := b.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("%s, want exit code 1", b.cmd.ProcessState)
	}
	log := strings.Join(b.log(), "\n")
	for _, want := range []string{"imds-bridge: self-check: ", i.Cgroup(), "firewall", "imds-bridge doctor"} {
		if !strings.Contains(log, want) {
			t.Errorf("standard error does not say %q:\n%s", want, log)
		}
	}
	if told := systemd.told(); len(told) > 0 {
		t.Errorf("told systemd %q", told)
	}

	if n := i.hooks(t); n != 0 {
		t.Errorf("%d hooks left", n)
	}
	if got := finish(t, i.Host().Start, curl(role)); got.err != nil {
		t.Errorf("curl afterwards: %v, %s", got.err, got.stderr)
	}
}
