package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// Rules of an init step stay when the sidecar goes: calls are refused, at once, until it is back or the
// rules are removed.
func TestSidecarThatIsAwayMeansRefusedCalls(t *testing.T) {
	t.Parallel()
	i := newInstance(t, podMetadata(2))
	key := i.credentials(t).AccessKeyID
	d := i.startDocker(t)
	p := d.startPod(t, i)
	p.install(t, sidecarUser)
	p.install(t, sidecarUser) // as an init container that is run again
	p.expectRefused(t)

	options := append(sidecarSettings, "--user="+sidecarUser)
	p.runSidecar(t, options...)
	p.expectKey(t, key)
	p.run(t, nil, "kill", p.sidecar())
	<-p.ended
	p.expectRefused(t)
	p.startSidecar(t)
	await(t, "the sidecar serves again", 10*time.Second, func() bool { return p.app(t, "1000").AccessKeyID == key })

	out, err := p.init(t, []string{"NET_ADMIN"}, "redirect", "remove")
	if err != nil || strings.Count(out, "removed") != 2 {
		t.Errorf("redirect remove: %v:\n%s", err, out)
	}
	if rules := p.rules(t); rules != "" {
		t.Errorf("rules are left:\n%s", rules)
	}
	if got := p.app(t, "1000"); got.Status != http.StatusUnauthorized {
		t.Errorf("the pod got %s, want 401 from IMDS itself", got)
	}
	p.expectKey(t, key, "-v2")
}

func (p *pod) expectKey(t *testing.T, key string, args ...string) {
	t.Helper()
	if got := p.app(t, "1000", args...); got.Status != http.StatusOK || got.AccessKeyID != key {
		t.Errorf("%v: the pod got %s, want key %s", args, got, key)
	}
}

func (p *pod) expectRefused(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{nil, {"-v2"}} {
		if got := p.app(t, "1000", args...); !strings.Contains(got.Error, "connection refused") {
			t.Errorf("%v: the pod got %s, want a refused connection", args, got)
		}
	}
	if counts := p.instance.imds.Counts(); counts.V1 != 0 {
		t.Errorf("reached IMDS: %+v", counts)
	}
}
