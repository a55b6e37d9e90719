package e2e

import (
	"regexp"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// TestRedirectorIsTold: /readyz and the metrics say by what calls come to the bridge.
func TestRedirectorIsTold(t *testing.T) {
	t.Parallel()
	for _, redirector := range []string{"ebpf", "iptables", "none"} {
		t.Run(redirector, func(t *testing.T) {
			t.Parallel()
			i := newInstance(t, simulator.Options{})
			b := i.startBridge(t, bridgeOptions{flags: []string{"--redirector=" + redirector}})
			for page, pattern := range map[string]string{
				"/metrics": `(?m)^imds_coverage_start_time_seconds\{.*imds_redirector="` + redirector + `".*\} [1-9]`,
				"/readyz":  `"` + redirector + `"`,
			} {
				if _, text := b.get(page); !regexp.MustCompile(pattern).MatchString(text) {
					t.Errorf("%s does not match %s:\n%s", page, pattern, text)
				}
			}
		})
	}
}
