//go:build root

package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestCallersOfSystemdAreNamed has the jobs of a real systemd and a real cron call: a bridge on the host tells
// unit, slice, session and script of each, what started it, and whose it is.
func TestCallersOfSystemdAreNamed(t *testing.T) {
	m := boot(t)
	b := m.startBridge(t)
	const curl = "curl --silent --max-time 10 http://169.254.169.254/latest/meta-data/instance-id\n"
	m.program(t, "/opt/nightly-report", `#!/bin/bash
exec 3<>/dev/tcp/169.254.169.254/80
printf 'GET /latest/meta-data/instance-id HTTP/1.0\r\n\r\n' >&3
cat <&3
sleep 60
`)
	m.program(t, "/opt/backup.sh", "#!/bin/sh\n"+curl+"true\n")
	m.program(t, "/opt/runner/step.sh", "#!/bin/sh\n"+curl+"true\n")
	m.program(t, "/opt/runner/bin/Runner.Worker", read(t, "/bin/bash"))
	for name, text := range map[string]string{
		"nightly-report.service": "[Service]\nExecStart=/opt/nightly-report --all\nSlice=batch.slice\n",
		"nightly-report.timer":   "[Timer]\nOnActiveSec=1ms\nAccuracySec=1ms\n",
		"actions-runner.service": "[Service]\nExecStart=/opt/runner/bin/Runner.Worker -c '/opt/runner/step.sh; true'\n",
	} {
		m.write(t, "/etc/systemd/system/"+name, text)
	}
	m.run("sh", "-c", "rm -f /etc/crontab /etc/cron.*/*")
	m.write(t, "/etc/cron.d/backup", "@reboot root /opt/backup.sh\n")
	m.write(t, "/etc/pam.d/cron", "auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n")
	m.systemctl(t, "daemon-reload")
	m.systemctl(t, "start", "nightly-report.timer", "actions-runner", "cron")
	go m.run("systemd-run", "--quiet", "--scope", "--unit=session-7", "--slice=user-1234.slice", "sh", "-c", curl)

	unit := func(name string) ownerName { return ownerName{name, "unit"} }
	for name, want := range map[string]named{
		"a unit that a timer starts": {
			Exe: "/usr/bin/bash", Script: "/opt/nightly-report", Unit: "nightly-report.service", Slice: "batch.slice",
			StartedBy: starter{"unit", "nightly-report.service"}, Owner: unit("nightly-report.service"), Service: "nightly-report",
		},
		"a job of cron": {
			Exe: "/usr/bin/curl", Unit: "cron.service", Slice: "system.slice",
			StartedBy: starter{"cron", "/opt/backup.sh"}, Owner: unit("cron.service"), Service: "cron", Parent: "/opt/backup.sh",
		},
		"a step of a CI runner": {
			Exe: "/usr/bin/curl", Unit: "actions-runner.service", Slice: "system.slice",
			StartedBy: starter{"ci", "github-actions"}, Owner: unit("actions-runner.service"), Service: "actions-runner", Parent: "/opt/runner/step.sh",
		},
		"a user's session": {
			Exe: "/usr/bin/curl", Slice: "user-1234.slice", Session: "7", StartedBy: starter{"session", "7"}, Owner: ownerName{"root", "user"}, Parent: "-c",
		},
	} {
		var got named
		await(t, "the call of "+name, func() (found bool) {
			for _, got = range b.calls(t) {
				if found = got.Unit == want.Unit && got.Session == want.Session; found {
					break
				}
			}
			return found
		})
		pid := got.PID
		if got.PID = 0; got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		if want.Script != "" {
			b.expectExplained(t, pid, want)
		}
	}
}

// named is what a log line says of a caller.
type named struct {
	PID                                        int
	Exe, Script, Unit, Slice, Session, Service string
	StartedBy                                  starter `json:"started_by"`
	Owner                                      ownerName
	Parent                                     string `json:"-"` // the parent's script
}

type (
	starter   struct{ Kind, Name string }
	ownerName struct{ Name, From string }
)

// hostBridge is a bridge on the host that a machine runs on.
type hostBridge struct {
	machine      *machine
	program, log string
}

// attributionFlags ask nothing of the runtimes of containers that this machine may have, nor for what is not
// known at once.
var attributionFlags = []string{
	"--attribution.docker=", "--attribution.cri=", "--attribution.ecs=off", "--attribution.kubernetes=off", "--attribution.owner=unit user",
}

func (m *machine) startBridge(t *testing.T) hostBridge {
	t.Helper()
	b := hostBridge{m, fmt.Sprintf("/proc/%d/root/usr/bin/imds-bridge", m.pid), filepath.Join(tempDir(t), "log")}
	log, err := os.Create(b.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	bridge := exec.Command(b.program, append([]string{"run", "--redirect.cgroup=" + m.Cgroup()}, attributionFlags...)...)
	bridge.Stdout, bridge.Stderr = log, log
	if !m.HasIPv6() {
		bridge.Args = append(bridge.Args, "--redirect.listen6=")
	}
	if err := m.Host().StartOutside(bridge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = bridge.Process.Signal(syscall.SIGTERM)
		if err := bridge.Wait(); err != nil || t.Failed() {
			t.Errorf("bridge: %v\n%s", err, read(t, b.log))
		}
	})
	awaitReady(t, m.Lab)
	return b
}

// calls are those that the log tells of.
func (b hostBridge) calls(t *testing.T) (calls []named) {
	t.Helper()
	for text := range strings.Lines(read(t, b.log)) {
		var line struct {
			Msg    string
			Caller struct {
				named
				Ancestors []struct{ Script string }
			}
		}
		if err := json.Unmarshal([]byte(text), &line); err == nil && line.Msg == "imds call" { // else it is being written
			got := line.Caller.named
			if len(line.Caller.Ancestors) > 0 {
				got.Parent = line.Caller.Ancestors[0].Script
			}
			calls = append(calls, got)
		}
	}
	return calls
}

func (b hostBridge) expectExplained(t *testing.T, pid int, want named) {
	t.Helper()
	explain := exec.Command(b.program, append([]string{"explain", fmt.Sprint(pid)}, attributionFlags...)...)
	var out bytes.Buffer
	explain.Stdout, explain.Stderr = &out, &out
	if err := b.machine.Host().StartOutside(explain); err != nil {
		t.Fatal(err)
	}
	if err := explain.Wait(); err != nil {
		t.Fatalf("explain: %v\n%s", err, &out)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, fact := range []string{
		"script " + want.Script + " ", "unit " + want.Unit + " ", "slice " + want.Slice + " ",
		"started by " + want.StartedBy.Kind + " " + want.StartedBy.Name + " ", "owner " + want.Owner.Name + " ", "1 v1",
	} {
		if !strings.Contains(text, fact) {
			t.Errorf("explain does not say %q:\n%s", fact, &out)
		}
	}
}

// program puts one onto the machine.
func (m *machine) program(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(fmt.Sprintf("/proc/%d/root%s", m.pid, name)), 0o755); err != nil {
		t.Fatal(err)
	}
	m.write(t, name, content)
	if err := os.Chmod(fmt.Sprintf("/proc/%d/root%s", m.pid, name), 0o755); err != nil {
		t.Fatal(err)
	}
}
