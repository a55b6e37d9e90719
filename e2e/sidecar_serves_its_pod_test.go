package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

func podMetadata(hops int) simulator.Options {
	return simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired, HTTPPutResponseHopLimit: hops}}
}

// An ordinary user without any capability, behind rules that an init step put in place, serves the
// containers of its pod, and nobody else.
func TestSidecarServesItsPod(t *testing.T) {
	t.Parallel()
	i := newInstance(t, podMetadata(2))
	key := i.credentials(t).AccessKeyID
	d := i.startDocker(t)
	p := d.startPod(t, i)
	if got := p.app(t, "1000"); got.Status != http.StatusUnauthorized {
		t.Fatalf("without a sidecar the pod got %s", got)
	}
	p.install(t, sidecarUser)
	p.runSidecar(t, append(sidecarSettings, "--user="+sidecarUser, "--env=OTEL_RESOURCE_ATTRIBUTES=k8s.pod.name=web-0,k8s.namespace.name=shop")...)
	p.checkUnprivileged(t)
	i.imds.Reset()

	for _, user := range []string{"0", "1000"} {
		for _, args := range [][]string{nil, {"-v2"}} {
			if got := p.app(t, user, args...); got.Status != http.StatusOK || got.AccessKeyID != key {
				t.Errorf("user %s %v: the pod got %s, want key %s", user, args, got, key)
			}
		}
		if got := p.curl(t, user, "http://[fd00:ec2::254]"+role); got.err != nil || !strings.Contains(got.stdout, key) {
			t.Errorf("user %s by IPv6: %v, %s", user, got.err, got.stderr)
		}
	}
	counts := map[string]int{}
	for _, line := range p.calls(t, 2*(2+3+1)) {
		counts[line.Version]++
		if line.Version == "v1" && !line.Upgraded {
			t.Errorf("not upgraded: %s", line.raw)
		}
		for _, want := range []string{`"netns":`, `"host_network":true`, `"complete":false`} {
			if !strings.Contains(line.raw, want) {
				t.Errorf("no %s: %s", want, line.raw)
			}
		}
		// Another pid namespace: who made the socket is known, which process is not.
		if strings.Contains(line.raw, `"pid"`) || strings.Contains(line.raw, `"gid"`) || strings.Contains(line.raw, `"ambiguous"`) {
			t.Errorf("a guess: %s", line.raw)
		}
		if line.Caller.UID != 0 && line.Caller.UID != 1000 || !strings.Contains(line.raw, `"uid":`) {
			t.Errorf("user: %s", line.raw)
		}
	}
	if counts["v1"] != 6 || counts["token"] != 2 || counts["v2"] != 4 {
		t.Errorf("calls in the log: %v", counts)
	}
	if got := i.imds.Counts(); got.V1 != 0 {
		t.Errorf("reached IMDS: %+v, want no v1 call", got)
	}
	p.checkStart(t)
	p.checkOutsiders(t, i, d)
}

// checkUnprivileged looks at the process of the sidecar.
func (p *pod) checkUnprivileged(t *testing.T) {
	t.Helper()
	pid := p.run(t, nil, "inspect", "--format={{.State.Pid}}", p.sidecar())
	got := status(t, fmt.Sprintf("/proc/%s/status", pid))
	const none = "0000000000000000"
	for name, want := range map[string]string{
		"CapEff": none, "CapPrm": none, "CapBnd": none, "CapInh": none, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2",
	} {
		if got[name] != want {
			t.Errorf("the sidecar has %s %s, want %s", name, got[name], want)
		}
	}
	if !strings.HasPrefix(got["Uid"], sidecarUser+"\t") {
		t.Errorf("the sidecar is user %s", got["Uid"])
	}
}

// checkStart looks for what the sidecar says of itself.
func (p *pod) checkStart(t *testing.T) {
	t.Helper()
	for _, line := range p.logged(t) {
		switch line.Msg {
		case "starting":
			if !strings.Contains(line.raw, `"k8s.pod.name":"web-0"`) || !strings.Contains(line.raw, `"k8s.namespace.name":"shop"`) {
				t.Errorf("it does not say in which pod it is: %s", line.raw)
			}
		case "ready":
			if !strings.Contains(line.raw, `"redirector":"iptables"`) {
				t.Errorf("ready: %s", line.raw)
			}
		}
	}
}

// checkOutsiders makes calls that are not the sidecar's to serve.
func (p *pod) checkOutsiders(t *testing.T, i *instance, d docker) {
	t.Helper()
	code := []string{"--output", "/dev/null", "--write-out", "%{http_code}"}
	for _, listener := range []string{"127.0.0.1", "[::1]"} {
		if got := p.curl(t, "1000", "http://"+listener+":"+sidecarPort+role, code...); got.stdout != "421" {
			t.Errorf("the listener on %s was dialled, and answered %q, want 421: %s", listener, got.stdout, got.stderr)
		}
	}
	i.imds.Reset()
	if got := p.curl(t, sidecarUser, "http://169.254.169.254"+role, code...); got.stdout != "401" {
		t.Errorf("the sidecar's user got %q, want 401: it is exempt", got.stdout)
	}
	if _, got := d.plain(t, "pods"); got.Status != http.StatusUnauthorized {
		t.Errorf("another pod got %s, want 401: it has no sidecar", got)
	}
	if got := i.imds.Counts(); got.V1 != 2 {
		t.Errorf("reached IMDS: %+v, want 2 v1 calls", got)
	}
}
