//go:build root

package deploy

import "testing"

// expectFailClosed runs the stopped service with the drop-in for fail: closed. A restart loses no call there
// either; after a stop, a crash, a restart that fails or one under other terms each call is refused at once until
// the bridge is back, and none goes straight. cleanup ends it.
func (m *machine) expectFailClosed(t *testing.T) {
	t.Helper()
	m.write(t, "/etc/systemd/system/imds-bridge.service.d/fail-closed.conf", read(t, "systemd/fail-closed.conf"))
	m.systemctl(t, "daemon-reload")
	m.systemctl(t, "start", "imds-bridge")
	calls := m.calls(t, "v1 v2")
	for range 3 {
		m.systemctl(t, "restart", "imds-bridge")
	}
	calls(t).expectNone(t, "restarts with fail: closed")

	calls = m.calls(t, "v1 v2")
	m.systemctl(t, "stop", "imds-bridge")
	m.expectRefusing(t, "a stop")
	m.systemctl(t, "start", "imds-bridge")
	calls(t).expectNoneStraight(t, "a stop and a start")
	m.calls(t, "v1 v2")(t).expectNone(t, "a start with fail: closed")

	calls = m.calls(t, "v1 v2")
	m.systemctl(t, "kill", "--signal=SIGKILL", "imds-bridge")
	await(t, "a new process after a crash", func() bool { return m.property("NRestarts") == "1" && m.property("ActiveState") == "active" })
	calls(t).expectNoneStraight(t, "a crash")
	m.calls(t, "v1 v2")(t).expectNone(t, "the new process with fail: closed")

	calls = m.calls(t, "v1 v2")
	m.configure(t, "IMDS_BRIDGE_REDIRECT_LISTEN=169.254.20.253:8254")
	m.systemctl(t, "restart", "imds-bridge")
	m.calls(t, "v1 v2")(t).expectNone(t, "a restart under other terms with fail: closed")
	m.configure(t, "IMDS_BRIDGE_MODE=nonsense")
	if out := m.try("restart", "imds-bridge"); out == "" {
		t.Error("a restart with nonsense for a mode succeeds")
	}
	m.systemctl(t, "stop", "imds-bridge")
	m.expectRefusing(t, "a restart that fails")
	m.configure(t)
	calls(t).expectNoneStraight(t, "a restart that fails")

	if out := m.run("imds-bridge", "cleanup", "--redirect.cgroup=/sys/fs/cgroup"); out == "" {
		t.Error("cleanup says nothing")
	}
	m.calls(t, "v2")(t).expectNone(t, "cleanup")
}

func (m *machine) expectRefusing(t *testing.T, after string) {
	t.Helper()
	if c := m.calls(t, "v1 v2")(t); c.Refused != c.Calls {
		t.Errorf("after %s: %d of %d calls refused; %d failed: %q", after, c.Refused, c.Calls, c.Failed, c.Errors)
	}
}

// expectNoneStraight wants some calls to have been refused, and no other to have failed but those that were
// under way.
func (c callCounts) expectNoneStraight(t *testing.T, during string) {
	t.Helper()
	const underWay = 2 // this workload makes one at a time, and may have met two ends
	if c.Straight > 0 || c.Refused == 0 || c.Failed-c.Refused > underWay {
		t.Errorf("%s: of %d calls %d went straight, %d were refused, %d failed: %q", during, c.Calls, c.Straight, c.Refused, c.Failed, c.Errors)
	}
}
