package caller

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// p is a process of a chain: its executable, and the script if it is an interpreter.
func p(pid int, executable, script string) Process {
	return Process{PID: pid, Comm: "comm", Executable: executable, Script: script}
}

func TestStartedBy(t *testing.T) {
	t.Parallel()
	var (
		systemd    = p(1, "/usr/lib/systemd/systemd", "")
		shim       = p(2, "/usr/bin/containerd-shim-runc-v2", "")
		bash       = p(3, "/usr/bin/bash", "")
		inline     = p(4, "/usr/bin/dash", "-c")
		cron       = p(5, "/usr/sbin/cron", "")
		cronChild  = p(6, "/usr/sbin/cron", "")
		sshd       = p(7, "/usr/sbin/sshd", "")
		supervisor = p(8, "/usr/bin/python3.11", "/usr/bin/supervisord")
		entry      = p(9, "/app/server", "")
	)
	unit := Place{Unit: "app.service", Slice: "system.slice"}
	for _, test := range []struct {
		name      string
		self      Process
		place     Place
		container string
		inner     int // number in its own namespace of the process before the shim
		ancestors []Process
		want      Starter
	}{
		{name: "cron, a shell's script", self: p(10, "/usr/bin/curl", ""), place: Place{Unit: "cron.service"},
			ancestors: []Process{p(11, "/usr/bin/bash", "/opt/job.sh"), inline, cronChild, cron, systemd}, want: Starter{StartedByCron, "/opt/job.sh", 6}},
		{name: "cron, a program", self: p(10, "/usr/bin/aws", ""), ancestors: []Process{inline, cronChild, cron, systemd}, want: Starter{StartedByCron, "/usr/bin/aws", 6}},
		{name: "cron, the caller's script", self: p(10, "/usr/bin/python3.11", "/opt/job.py"), ancestors: []Process{cronChild, cron, systemd}, want: Starter{StartedByCron, "/opt/job.py", 6}},
		{name: "cron, a module", self: p(10, "/usr/bin/python3.11", "-m job"), ancestors: []Process{cronChild, cron}, want: Starter{StartedByCron, "-m job", 6}},
		{name: "cron, inline", self: p(10, "/usr/bin/python3.11", "-c"), ancestors: []Process{cronChild, cron}, want: Starter{StartedByCron, "/usr/bin/python3.11", 6}},
		{name: "cron, a shell itself", self: inline, ancestors: []Process{cronChild, cron}, want: Starter{StartedByCron, "/usr/bin/dash", 6}},
		{name: "cron.daily", self: p(10, "/usr/bin/curl", ""),
			ancestors: []Process{p(11, "/usr/bin/dash", "/etc/cron.daily/report"), p(12, "/usr/bin/run-parts", ""), inline, cronChild, cron}, want: Starter{StartedByCron, "/etc/cron.daily/report", 6}},
		{name: "cron with a lock", self: p(10, "/opt/job", ""), ancestors: []Process{p(11, "/usr/bin/flock", ""), inline, cronChild, cron}, want: Starter{StartedByCron, "/opt/job", 6}},
		{name: "crond of busybox", self: p(10, "/bin/busybox", "/job.sh"),
			ancestors: []Process{{PID: 11, Comm: "crond", Executable: "/bin/busybox"}}, want: Starter{StartedByCron, "/job.sh", 11}},
		{name: "at", self: p(10, "/usr/bin/curl", ""), ancestors: []Process{p(11, "/usr/bin/dash", ""), p(12, "/usr/sbin/atd", ""), systemd}, want: Starter{StartedByAt, "/usr/bin/curl", 12}},

		{name: "ssh", self: p(10, "/usr/bin/curl", ""), place: Place{Session: "3"}, ancestors: []Process{bash, sshd, sshd, systemd}, want: Starter{StartedBySSH, "sshd", 7}},
		{name: "ssh 9.8", self: p(10, "/usr/bin/curl", ""), ancestors: []Process{bash, p(11, "/usr/lib/openssh/sshd-session", ""), sshd}, want: Starter{StartedBySSH, "sshd", 11}},
		{name: "session manager", self: p(10, "/usr/bin/curl", ""), ancestors: []Process{bash, p(11, "/usr/bin/ssm-session-worker", ""), systemd}, want: Starter{StartedBySSM, "ssm-session-worker", 11}},
		{name: "session whose daemon is gone", self: p(10, "/usr/bin/curl", ""), place: Place{Session: "3", LoginUID: "1000"}, ancestors: []Process{systemd}, want: Starter{Kind: StartedBySession, Name: "3"}},

		{name: "github", self: p(10, "/usr/bin/curl", ""), place: unit,
			ancestors: []Process{bash, p(11, "/home/r/bin/Runner.Worker", ""), p(12, "/home/r/bin/Runner.Listener", ""), systemd}, want: Starter{StartedByCI, "github-actions", 11}},
		{name: "gitlab", self: p(10, "/usr/bin/curl", ""), ancestors: []Process{bash, p(11, "/usr/bin/gitlab-runner", "")}, want: Starter{StartedByCI, "gitlab-runner", 11}},
		{name: "jenkins", self: p(10, "/usr/bin/curl", ""), ancestors: []Process{p(11, "/usr/bin/dash", "/tmp/x.sh"), p(12, "/usr/bin/java", "/home/jenkins/agent.jar"), sshd}, want: Starter{StartedByCI, "jenkins", 12}},
		{name: "jenkins over tcp", self: p(10, "/usr/bin/curl", ""), ancestors: []Process{p(12, "/usr/bin/java", "hudson.remoting.jnlp.Main")}, want: Starter{StartedByCI, "jenkins", 12}},
		{name: "buildkite", self: p(10, "/usr/bin/curl", ""), ancestors: []Process{bash, p(11, "/usr/bin/buildkite-agent", ""), p(12, "/usr/bin/buildkite-agent", "")}, want: Starter{StartedByCI, "buildkite", 11}},
		{name: "circleci", self: p(10, "/usr/bin/curl", ""), ancestors: []Process{bash, p(11, "/opt/circleci/circleci-launch-agent", "")}, want: Starter{StartedByCI, "circleci", 11}},
		{name: "the agent itself", self: p(10, "/usr/bin/buildkite-agent", ""), place: unit, ancestors: []Process{systemd}, want: Starter{Kind: StartedByUnit, Name: "app.service"}},

		{name: "supervisord", self: entry, place: unit, ancestors: []Process{supervisor, systemd}, want: Starter{StartedBySupervisor, "supervisord", 8}},
		{name: "runit", self: entry, ancestors: []Process{p(11, "/usr/bin/runsv", ""), p(12, "/usr/bin/runsvdir", ""), systemd}, want: Starter{StartedBySupervisor, "runit", 11}},
		{name: "s6", self: entry, ancestors: []Process{p(11, "/command/s6-supervise", ""), p(12, "/command/s6-svscan", "")}, want: Starter{StartedBySupervisor, "s6", 11}},
		{name: "pm2", self: entry, ancestors: []Process{p(11, "/usr/bin/node", "PM2 v5.3.0: God Daemon (/root/.pm2)"), systemd}, want: Starter{StartedBySupervisor, "pm2", 11}},

		{name: "unit", self: entry, place: unit, ancestors: []Process{systemd}, want: Starter{Kind: StartedByUnit, Name: "app.service"}},
		{name: "unit of a systemd below an ssh session", self: entry, place: unit,
			ancestors: []Process{systemd, p(11, "/usr/bin/systemd-nspawn", ""), bash, sshd, p(12, "/usr/lib/systemd/systemd", "")}, want: Starter{Kind: StartedByUnit, Name: "app.service"}},
		{name: "nothing known", self: entry, ancestors: []Process{systemd}},
		{name: "nothing at all", self: entry},

		{name: "a container's first process", self: entry, container: id1, inner: 1, ancestors: []Process{shim, systemd}, want: Starter{StartedByEntrypoint, "/app/server", 9}},
		{name: "below a container's first process", self: p(10, "/usr/bin/curl", ""), container: id1, inner: 1,
			ancestors: []Process{bash, p(11, "/usr/bin/bash", "/entrypoint.sh"), shim, systemd}, want: Starter{StartedByEntrypoint, "/entrypoint.sh", 11}},
		{name: "of podman", self: p(10, "/usr/bin/curl", ""), container: id1, inner: 1, place: Place{Unit: "web.service"},
			ancestors: []Process{entry, p(11, "/usr/bin/conmon", ""), systemd}, want: Starter{StartedByEntrypoint, "/app/server", 9}},
		{name: "exec or probe", self: p(10, "/usr/bin/curl", ""), container: id1, inner: 42, ancestors: []Process{inline, shim, systemd}, want: Starter{StartedByRuntime, "/usr/bin/dash", 4}},
		{name: "host's pid namespace", self: entry, container: id1, ancestors: []Process{shim, systemd}, want: Starter{StartedByRuntime, "/app/server", 9}},
		{name: "no container, a shim above", self: entry, place: unit, ancestors: []Process{shim, systemd}, want: Starter{Kind: StartedByUnit, Name: "app.service"}},
		{name: "a pod whose container is not known", self: entry, place: Place{PodUID: podUID1}, inner: 1, ancestors: []Process{shim, systemd}, want: Starter{StartedByEntrypoint, "/app/server", 9}},
		{name: "a container whose shim is not known", self: entry, container: id1, place: unit, ancestors: []Process{systemd}},
		{name: "supervisord in a container", self: entry, container: id1, inner: 1, ancestors: []Process{supervisor, shim}, want: Starter{StartedBySupervisor, "supervisord", 8}},
		{name: "the host's sshd did not start what is in a container", self: entry, container: id1, inner: 1, ancestors: []Process{shim, bash, sshd}, want: Starter{StartedByEntrypoint, "/app/server", 9}},
		{name: "systemd in a container", self: entry, container: "web", place: Place{LXC: "web", Unit: "app.service"},
			ancestors: []Process{systemd, p(12, "/usr/bin/lxc-start", "")}, want: Starter{Kind: StartedByUnit, Name: "app.service"}},

		{name: "a name that a process gave itself", self: entry, place: unit, ancestors: []Process{{PID: 11, Comm: "cron", Executable: "/tmp/x"}, systemd}, want: Starter{Kind: StartedByUnit, Name: "app.service"}},
		{name: "executables that may not be read", self: entry, place: unit, ancestors: []Process{{PID: 11, Comm: "sshd"}, {PID: 1, Comm: "systemd"}}, want: Starter{StartedBySSH, "sshd", 11}},
		{name: "the same, with a name that was cut", self: entry, ancestors: []Process{{PID: 11, Comm: "ssm-session-wor"}}, want: Starter{StartedBySSM, "ssm-session-worker", 11}},
		{name: "the shim may not be read", self: entry, container: id1, inner: 1, ancestors: []Process{{PID: 11, Comm: "containerd-shim"}}, want: Starter{StartedByEntrypoint, "/app/server", 9}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := &Caller{
				Origin: Origin{PID: uint32(test.self.PID)}, Comm: test.self.Comm, Executable: test.self.Executable,
				Program: Program{Script: test.self.Script}, ContainerID: test.container, Place: &test.place, Ancestors: test.ancestors,
			}
			if got := startedBy(c, func(int) int { return test.inner }); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// Programs that go by the names of starters run one, each through a shell.
func TestStartedByRealProcesses(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]Starter{
		"crond":               {Kind: StartedByCron, Name: self},
		"atd":                 {Kind: StartedByAt, Name: self},
		"sshd-session":        {Kind: StartedBySSH, Name: "sshd"},
		"ssm-document-worker": {Kind: StartedBySSM, Name: "ssm-document-worker"},
		"gitlab-runner":       {Kind: StartedByCI, Name: "gitlab-runner"},
		"Runner.Worker":       {Kind: StartedByCI, Name: "github-actions"},
		"buildkite-agent":     {Kind: StartedByCI, Name: "buildkite"},
		"circleci-agent":      {Kind: StartedByCI, Name: "circleci"},
		"agent.jar":           {Kind: StartedByCI, Name: "jenkins"},
		"runsv":               {Kind: StartedBySupervisor, Name: "runit"},
		"s6-supervise":        {Kind: StartedBySupervisor, Name: "s6"},
		"supervisord":         {Kind: StartedBySupervisor, Name: "supervisord"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := filepath.Join(t.TempDir(), name)
			const run = `/bin/sh -c "$0; true"; true`
			args := []string{program, "-c", run, self}
			if _, isScript := scriptStarters[name]; isScript {
				if err := os.WriteFile(program, []byte("/bin/sh -c \"$1; true\"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				args = []string{"/bin/sh", program, self}
			} else {
				copyProgram(t, "/bin/sh", program)
			}
			p := start(t, "stay", func(cmd *exec.Cmd) { cmd.Path, cmd.Args = args[0], args })
			want.PID = p.first.Process.Pid
			if c := named(t, newReader(t, Options{}), origin(t, p.pid)); c.Starter != want || p.pid == want.PID {
				t.Errorf("started by %+v, want %+v", c.Starter, want)
			}
		})
	}
}
