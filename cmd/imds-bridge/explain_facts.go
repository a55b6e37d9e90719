package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imds-bridge/imds-bridge/attribution"
	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/caller/software"
	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/imds/client"
)

// fact is one thing that is known of a process, or why it is not.
type fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`          // "" where it is unknown
	From  string `json:"from,omitempty"` // where it is known from
	Why   string `json:"why,omitempty"`  // it is unknown
}

// maxShown bounds the text of one fact, in bytes.
const maxShown = 2048

const (
	none          = "none"
	factContainer = "container"
)

// facts gathers what is known of one process, in the order in which it is shown.
type facts struct {
	pid uint32
	// called: they are the bridge's, of the time of a call, and not explain's of now.
	called bool
	list   []fact
}

// add keeps a fact harmless to terminals, whoever wrote it.
func (f *facts) add(name, value, from string) {
	f.list = append(f.list, fact{Name: name, Value: caller.Printable(value, maxShown), From: caller.Printable(from, maxShown)})
}

// known adds a fact that not every process has.
func (f *facts) known(name, value, from string) {
	if value != "" {
		f.add(name, value, from)
	}
}

func (f *facts) unknown(name, why string) {
	f.list = append(f.list, fact{Name: name, Why: caller.Printable(why, maxShown)})
}

func (f *facts) proc(file string) string { return fmt.Sprintf("/proc/%d/%s", f.pid, file) }

func (f *facts) process(c *caller.Caller) {
	since := ", since "
	if f.called {
		since = ", started "
	}
	f.add("process", c.Comm+since+c.Started.UTC().Format(time.RFC3339), f.proc("stat"))
	uid := func(name string, id uint32) string {
		if name == "" {
			return strconv.FormatUint(uint64(id), 10)
		}
		return fmt.Sprintf("%s (%d)", name, id)
	}
	from := f.proc("status") + ", the host's passwd and group"
	if c.User == "" {
		from = f.proc("status")
	}
	f.add("user", uid(c.User, c.UID)+", group "+uid(c.Group, c.GID), from)
	switch {
	case c.Executable != "" && c.ExecutableDeleted:
		f.add("executable", c.Executable+" (its file was removed or replaced)", f.proc("exe"))
	case c.Executable != "":
		f.add("executable", c.Executable, f.proc("exe"))
	case len(c.Args) == 0:
		f.unknown("executable", "a kernel thread has none; that of another user's process takes CAP_SYS_PTRACE to read")
	default:
		f.unknown("executable", f.proc("exe")+" may not be read: that takes CAP_SYS_PTRACE")
	}
	f.known("arguments", strings.Join(c.Args, " "), f.proc("cmdline")+", without secrets")
	if c.Program.Interpreter != "" {
		f.script(c.Program)
	}
	f.starter(c)
}

func (f *facts) script(p caller.Program) {
	f.add("interpreter", p.Interpreter, "the name of its executable")
	if p.Script == "" {
		f.unknown("script", "its arguments name none")
		return
	}
	f.add("script", p.Script, "its arguments")
}

func (f *facts) starter(c *caller.Caller) {
	lineage := make([]string, len(c.Ancestors))
	for i, p := range c.Ancestors {
		name := p.Comm
		if runs := p.Runs(); runs != p.Executable {
			name = runs
		}
		lineage[i] = fmt.Sprintf("%s (%d)", name, p.PID)
	}
	by, text := c.Starter, ""
	if by.Kind != "" {
		text = by.Kind
		if by.Name != "" {
			text += " " + by.Name
		}
	}
	switch {
	case text == "":
		f.unknown("started by", "no ancestor is one that starts jobs, and its cgroup names no unit or session")
	case by.PID != 0:
		f.add("started by", fmt.Sprintf("%s, process %d", text, by.PID), "its ancestors")
	default:
		f.add("started by", text, "its cgroup")
	}
	from := "/proc, as of now"
	if f.called {
		from = "/proc, as of when the bridge read it"
	}
	f.known("ancestors", strings.Join(lineage, " < "), from)
}

func (f *facts) place(c *caller.Caller) {
	if p := c.Place; p != nil {
		from := "its cgroup"
		if p.UserUnit {
			from += ", of a user's systemd"
		}
		f.known("unit", p.Unit, from)
		f.known("slice", p.Slice, "its cgroup")
		f.known("session", p.Session, "its cgroup")
		f.known("snap", p.Snap, "its unit")
	}
	f.known("cgroup", c.Cgroup, f.proc("cgroup"))
	f.network(c)
}

func (f *facts) network(c *caller.Caller) {
	here := "explain"
	if f.called {
		here = "the bridge"
	}
	own, err := os.Readlink("/proc/self/ns/net")
	switch {
	case f.called && c.NetNS == 0: // not every record has it
	case c.NetNS == 0 || err != nil:
		f.unknown("network", f.proc("ns/net")+" may not be read: that takes CAP_SYS_PTRACE")
	case own == fmt.Sprintf("net:[%d]", c.NetNS):
		f.add("network", "the one that "+here+" is in", f.proc("ns/net"))
	default:
		f.add("network", fmt.Sprintf("another than %s is in (%d)", here, c.NetNS), f.proc("ns/net"))
	}
}

func (f *facts) container(c *caller.Caller, known *container.Container) {
	id, pod := containerOf(c)
	switch {
	case c.ContainerID != "":
		text, from := c.ContainerID, "its cgroup"
		switch {
		case c.ContainerRuntime != "":
			text += " of " + c.ContainerRuntime
		case known != nil && known.Runtime != "":
			text += " of " + known.Runtime
			from += ", and " + strings.Join(known.From, ", ")
		}
		if c.Place != nil && c.Place.Delegated {
			from += ", below one that somebody else may write: its word alone"
		}
		f.add(factContainer, text, from)
	case pod != "" || c.Place != nil && c.Place.TaskID != "":
		f.unknown(factContainer, "its cgroup names the pod or task alone")
	default:
		f.add(factContainer, none, "its cgroup names none")
		return
	}
	if c.Place != nil {
		f.known("outer container", c.Place.Outer, "its cgroup")
	}
	if known == nil {
		f.known("pod uid", pod, "its cgroup")
		if c.Place != nil {
			f.known("task id", c.Place.TaskID, "its cgroup")
		}
		switch {
		case id != "" && f.called:
			f.unknown("image", "no source told the bridge of this container")
		case id != "":
			f.unknown("image", "no source told of this container: see what is below")
		}
		return
	}
	from := strings.Join(known.From, ", ")
	f.known("container name", known.Name, from)
	f.known("image", known.Image.String(), from)
	f.known("image id", known.Image.ID, from)
	f.known("labels", labels(known.Labels), from)
	f.pod(known.Pod, from)
	f.task(known.Task, from)
}

func (f *facts) pod(p *container.Pod, from string) {
	if p == nil {
		return
	}
	f.add("pod", p.Namespace+"/"+p.Name, from)
	f.known("pod uid", p.UID, from)
	f.known("pod container", p.Container, from)
	f.known("service account", p.ServiceAccount, from)
	f.known("workload", strings.TrimSpace(p.Workload.Kind+" "+p.Workload.Name), from)
	f.known("node", p.Node, from)
	f.known("pod labels", labels(p.Labels), from)
	f.known("pod annotations", labels(p.Annotations), from)
}

func (f *facts) task(t *container.Task, from string) {
	if t == nil {
		return
	}
	f.add("task", t.ARN, from)
	f.known("task cluster", t.Cluster, from)
	f.known("task definition", strings.TrimSuffix(t.Family+":"+t.Revision, ":"), from)
	f.known("task service", t.Service, from)
	f.known("task container", t.Container, from)
}

func labels(all map[string]string) string {
	list := make([]string, 0, len(all))
	for _, key := range slices.Sorted(maps.Keys(all)) {
		list = append(list, key+"="+all[key])
	}
	return strings.Join(list, ", ")
}

func (f *facts) software(s *software.Software, lookErr error, off bool) {
	if s == nil {
		why := "its files cannot be read"
		switch {
		case off:
			why = "not looked for: see below"
		case errors.Is(lookErr, fs.ErrPermission):
			why = f.proc("exe") + " may not be read: that takes CAP_SYS_PTRACE"
		case lookErr != nil:
			why = lookErr.Error()
		}
		f.unknown("libraries", why)
		f.unknown("package", why)
		return
	}
	if p := s.Program; p.Name != "" {
		from := "the metadata of its " + p.Ecosystem + " package"
		if p.Ecosystem == software.Go {
			from = "its build info"
		}
		f.add("program", strings.TrimSpace(p.Name+" "+p.Version), from)
	}
	for _, l := range s.Libraries {
		from := l.Path
		if p, ok := s.LibraryPackages[l.Path]; ok {
			from += ", of " + strings.TrimSpace(p.Name+" "+p.Version)
		}
		f.add("library", fmt.Sprintf("%s (%s, %s)", strings.TrimSpace(l.Name+" "+l.Version), l.Ecosystem, l.Certainty), from)
	}
	switch {
	case len(s.Libraries) == 0 && s.Missing == "":
		f.add("libraries", none, "its files: none of those known to call IMDS")
	case s.Missing != "":
		f.unknown("libraries", "there may be more: "+s.Missing)
	}
	f.owned("package", s.Package, "its executable")
	f.owned("script package", s.ScriptPackage, s.Script)
}

func (f *facts) owned(name string, p software.Package, what string) {
	if p.Name != "" {
		f.add(name, strings.TrimSpace(p.Name+" "+p.Version), p.Manager+", which has "+what)
	} else if name == "package" {
		f.unknown(name, "no package has its executable, or it could not be told")
	}
}

// serviceRules are where the name of a service is looked for, as owner.Service does.
const serviceRules = "pod.annotation:backstage.io/kubernetes-id pod.label:backstage.io/kubernetes-id " +
	"env:OTEL_SERVICE_NAME env:DD_SERVICE " +
	"pod.label:tags.datadoghq.com/service pod.label:app.kubernetes.io/name pod.label:app " +
	"container.label:com.datadoghq.tags.service container.label:com.docker.compose.service " +
	"pod.workload ecs.service ecs.family unit"

func (f *facts) owner(known *attribution.Attribution, service owner.Owner, onTags bool) {
	switch {
	case known.Owner.Name != "":
		f.add("owner", known.Owner.Name, known.Owner.From)
	case onTags:
		f.unknown("owner", "no rule of attribution.owner finds one; tags of the instance are asked by the running bridge alone")
	default:
		f.unknown("owner", "no rule of attribution.owner finds one")
	}
	if known.Service == "" {
		f.unknown("service", "no variable, label, workload or unit names one")
		return
	}
	f.add("service", known.Service, service.From)
}

// client is what the process tells of the client, before any call.
func (f *facts) client(known *attribution.Attribution) {
	c := known.Client
	// Without a call there was no User-Agent, which is no evidence.
	if c == nil || c.Confidence == client.None || c.From == client.FromUserAgent {
		f.unknown(factClient, "neither its libraries nor its name tell; a call's User-Agent may")
		return
	}
	f.add(factClient, clientText(c.Title(), c.Confidence.String(), c.SpeaksV2().String()), c.From.String())
	if a := client.Advise(*c, client.Seen{Kind: imds.V1}); a.Code != client.NotKnown {
		f.add(factAdvice, a.Text, "if it makes a v1 call")
		f.known(factLink, a.Link, "the vendor")
	}
}

const (
	factClient = "client"
	factAdvice = "advice"
	factLink   = "see"
)

func clientText(title, confidence, speaksV2 string) string {
	return fmt.Sprintf("%s, %s; speaks v2: %s", title, confidence, speaksV2)
}

// without drops what the calls of a process say better.
func without(list []fact, names ...string) []fact {
	return slices.DeleteFunc(list, func(f fact) bool { return slices.Contains(names, f.Name) })
}
