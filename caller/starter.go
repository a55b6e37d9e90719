package caller

import (
	"path"
	"slices"
	"strings"
)

// Starter is what started a caller: the nearest of its ancestors that starts jobs of others, no further
// up than systemd, else the container, login session or unit that it is in.
type Starter struct {
	// Kind is one of the kinds below, "" where nothing tells.
	Kind string
	// Name is
	//   - of cron and at, the script or the program that is the job;
	//   - of ci, gitlab-runner, github-actions, jenkins, buildkite or circleci;
	//   - of supervisor, supervisord, runit, s6 or pm2;
	//   - of ssh and ssm, the program that serves the session;
	//   - of entrypoint and runtime, the script or the program that is the first of the caller's
	//     ancestors in the container, or the caller itself;
	//   - of session its id, of unit the unit.
	Name string
	// PID is the ancestor's, of entrypoint and runtime that of the process that Name names. It is 0
	// for session and unit.
	PID int
}

// Kinds of starters.
const (
	StartedByCron       = "cron"
	StartedByAt         = "at"
	StartedByCI         = "ci"
	StartedBySSH        = "ssh"
	StartedBySSM        = "ssm" // a session or a command of AWS Systems Manager
	StartedBySupervisor = "supervisor"
	// StartedByEntrypoint: the container's first process, number 1 of a pid namespace of its own.
	StartedByEntrypoint = "entrypoint"
	// StartedByRuntime: a process that the runtime put into the container and that is not number 1
	// there: docker exec, kubectl exec, a probe of the kubelet. Where containers share a pid namespace
	// or have the host's, their first processes look the same.
	StartedByRuntime = "runtime"
	StartedBySession = "session"
	StartedByUnit    = "unit"
)

// starters by the names of executables.
var starters = map[string]Starter{
	"cron":    {Kind: StartedByCron},
	"crond":   {Kind: StartedByCron},
	"anacron": {Kind: StartedByCron},
	"fcron":   {Kind: StartedByCron},
	"atd":     {Kind: StartedByAt},

	"sshd":                {Kind: StartedBySSH, Name: "sshd"},
	"sshd-session":        {Kind: StartedBySSH, Name: "sshd"},
	"dropbear":            {Kind: StartedBySSH, Name: "dropbear"},
	"ssm-session-worker":  {Kind: StartedBySSM, Name: "ssm-session-worker"},
	"ssm-document-worker": {Kind: StartedBySSM, Name: "ssm-document-worker"},

	"gitlab-runner":         {Kind: StartedByCI, Name: "gitlab-runner"},
	"gitlab-runner-helper":  {Kind: StartedByCI, Name: "gitlab-runner"},
	"Runner.Worker":         {Kind: StartedByCI, Name: "github-actions"},
	"Runner.Listener":       {Kind: StartedByCI, Name: "github-actions"},
	"buildkite-agent":       {Kind: StartedByCI, Name: "buildkite"},
	"circleci-agent":        {Kind: StartedByCI, Name: "circleci"},
	"circleci-runner":       {Kind: StartedByCI, Name: "circleci"},
	"circleci-launch-agent": {Kind: StartedByCI, Name: "circleci"},

	"runsv":        {Kind: StartedBySupervisor, Name: "runit"},
	"s6-supervise": {Kind: StartedBySupervisor, Name: "s6"},
}

// scriptStarters are those that an interpreter runs, by the names of their scripts.
var scriptStarters = map[string]Starter{
	"supervisord":      {Kind: StartedBySupervisor, Name: "supervisord"},
	"agent.jar":        {Kind: StartedByCI, Name: "jenkins"},
	"remoting.jar":     {Kind: StartedByCI, Name: "jenkins"},
	"slave.jar":        {Kind: StartedByCI, Name: "jenkins"},
	"swarm-client.jar": {Kind: StartedByCI, Name: "jenkins"},
	"jenkins.war":      {Kind: StartedByCI, Name: "jenkins"},
}

// shims are the parents, outside of a container, of the processes that its runtime put into it.
var shims = []string{"docker-containerd-shim", "conmon", "conmonrs", "runc", "crun", "lxc-start", "lxc-execute", "lxd", "incusd"}

func (p Process) isShim() bool {
	name := p.name()
	return strings.HasPrefix(name, "containerd-shim") || slices.Contains(shims, name)
}

// wrappers run a command as their child, and are not what a job is.
var wrappers = []string{"run-parts", "flock", "timeout", "chronic", "sudo", "su", "runuser"}

// inits start units in a container.
var inits = []string{"systemd", "init"}

// commLength is how much of the name of an executable the kernel keeps as that of the process.
const commLength = 15

// startedBy tells what started c. inner tells the number that a process has in its own pid
// namespace, 0 if that is not known.
func startedBy(c *Caller, inner func(pid int) int) Starter {
	self := Process{PID: int(c.PID), Comm: c.Comm, Executable: c.Executable, Script: c.Program.Script}
	chain := append([]Process{self}, c.Ancestors...)
	contained := c.inContainer()
	entered := -1 // by the process before the shim
	if contained {
		entered = slices.IndexFunc(chain, Process.isShim) - 1
	}
	if entered >= 0 {
		chain = chain[:entered+1]
	}
	for i, p := range chain[1:] {
		if s, ok := p.starter(); ok {
			s.PID = p.PID
			if s.Kind == StartedByCron || s.Kind == StartedByAt {
				s.Name = job(chain[:i+1], p.name())
			}
			return s
		}
		if p.name() == "systemd" {
			break // what started it started none of its units
		}
	}
	entry := chain[len(chain)-1]
	switch {
	case entered >= 0 && (c.Place.Unit == "" || !slices.Contains(inits, entry.name())):
		s := Starter{Kind: StartedByRuntime, Name: entry.label(), PID: entry.PID}
		if inner(entry.PID) == 1 {
			s.Kind = StartedByEntrypoint
		}
		return s
	case contained && entered < 0:
		return Starter{}
	case c.Place.Session != "":
		return Starter{Kind: StartedBySession, Name: c.Place.Session}
	case c.Place.Unit != "":
		return Starter{Kind: StartedByUnit, Name: c.Place.Unit}
	}
	return Starter{}
}

// job names what cron runs: the first below it that is neither cron's own child nor there only to
// run another. chain begins with the caller and ends below cron.
func job(chain []Process, cron string) string {
	for _, p := range slices.Backward(chain) {
		name := p.name()
		isShell := syntaxes[interpreters[unversioned(name)]] == shell && !namesCode(p.Script)
		if name != cron && !isShell && !slices.Contains(wrappers, name) {
			return p.label()
		}
	}
	return chain[0].label()
}

// starter tells whether p starts jobs of others.
func (p Process) starter() (Starter, bool) {
	if s, ok := starters[p.name()]; ok {
		return s, true
	}
	if s, ok := scriptStarters[path.Base(p.Script)]; ok {
		return s, true
	}
	if p.Executable == "" && len(p.Comm) == commLength {
		for name, s := range starters {
			if strings.HasPrefix(name, p.Comm) {
				return s, true
			}
		}
	}
	switch {
	case strings.HasPrefix(p.Script, "PM2 v"): // its title goes on with the version
		return Starter{Kind: StartedBySupervisor, Name: "pm2"}, true
	case strings.HasPrefix(p.Script, "hudson.remoting."):
		return Starter{Kind: StartedByCI, Name: "jenkins"}, true
	}
	return Starter{}, false
}

// name is that of the executable, which a process cannot choose as it likes. Where it is not known,
// and of busybox, it is that of the process.
func (p Process) name() string {
	name := path.Base(p.Executable)
	if p.Executable == "" || isBusybox(name) {
		return p.Comm
	}
	return name
}

// label is how p is called where it stands for what it runs.
func (p Process) label() string {
	switch {
	case namesCode(p.Script):
		return p.Script
	case p.Executable != "":
		return p.Executable
	}
	return p.Comm
}
