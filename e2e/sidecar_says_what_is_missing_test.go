package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestSidecarSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	i := newInstance(t, podMetadata(1))
	d := i.startDocker(t)
	p := d.startPod(t, i)
	options := append(sidecarSettings, "--user="+sidecarUser)

	t.Run("NET_ADMIN", func(t *testing.T) {
		for _, verb := range []string{"install", "remove"} {
			args := []string{"redirect", verb}
			if verb == "install" {
				args = append(args, "--exempt-uid="+sidecarUser, "--redirect.listen=127.0.0.1:"+sidecarPort)
			}
			out, err := p.init(t, nil, args...)
			if err == nil || !strings.Contains(out, "CAP_NET_ADMIN") || strings.Count(out, "\n") != 1 {
				t.Errorf("redirect %s: %v: %q, want one line that names the capability", verb, err, out)
			}
		}
		if rules := p.rules(t); rules != "" {
			t.Errorf("half of it is there:\n%s", rules)
		}
	})

	t.Run("the init step", func(t *testing.T) {
		p.launchSidecar(t, options...)
		select {
		case <-p.ended:
		case <-time.After(20 * time.Second):
			t.Fatal("the sidecar runs without its rules")
		}
		lines := p.logged(t)
		if last := lines[len(lines)-1]; last.Level != "ERROR" || !strings.Contains(last.raw, "redirect install") || !strings.Contains(last.raw, sidecarUser) {
			t.Errorf("the last line of the log: %s", last.raw)
		}
	})

	t.Run("a hop", func(t *testing.T) {
		p.install(t, sidecarUser)
		p.runSidecar(t, options...)
		await(t, "a warning", 10*time.Second, func() bool {
			for _, line := range p.logged(t) {
				if line.Level == "WARN" && strings.Contains(line.raw, "HttpPutResponseHopLimit") {
					return true
				}
			}
			return false
		})
		if got := p.app(t, "1000"); got.Status != http.StatusServiceUnavailable {
			t.Errorf("the pod got %s, want 503", got)
		}
	})
}
