package e2e

import (
	"slices"
	"strings"
	"testing"
)

// With a shared pid namespace the sidecar names the calling process if it may look at it; without the
// privilege it says what the kernel tells everybody, the user.
func TestSidecarNamesProcessesThatItMaySee(t *testing.T) {
	t.Parallel()
	i := newInstance(t, podMetadata(2))
	key := i.credentials(t).AccessKeyID
	d := i.startDocker(t)

	privileged := d.startPod(t, i)
	privileged.shared = []string{"--pid=container:" + privileged.id}
	privileged.install(t, "0")
	privileged.runSidecar(t, append(sidecarSettings, "--user=0", "--cap-add=SYS_PTRACE", "--cap-add=DAC_READ_SEARCH")...)
	privileged.expectKey(t, key)
	for _, line := range privileged.calls(t, 2) {
		who := line.Caller
		if who.PID < 2 || who.Comm != "plain" || who.Exe != "/plain" || !slices.Equal(who.Args, []string{"/plain"}) ||
			who.UID != 1000 || !who.HostNetwork || !who.Complete || !line.Upgraded {
			t.Errorf("caller: want /plain of user 1000: %s", line.raw)
		}
	}

	unprivileged := d.startPod(t, i)
	unprivileged.shared = []string{"--pid=container:" + unprivileged.id}
	unprivileged.install(t, sidecarUser)
	unprivileged.runSidecar(t, append(sidecarSettings, "--user="+sidecarUser)...)
	unprivileged.expectKey(t, key)
	for _, line := range unprivileged.calls(t, 2) {
		if who := line.Caller; who.UID != 1000 || who.Complete || strings.Contains(line.raw, `"pid"`) || !line.Upgraded {
			t.Errorf("caller: want user 1000 and no process: %s", line.raw)
		}
	}
}
