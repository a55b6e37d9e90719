package attribution

import (
	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/caller/software"
	"github.com/imds-bridge/imds-bridge/imds/client"
)

func (a *Attributor) who(c *caller.Caller, s *subject, in *container.Container, runs *software.Software) *Who {
	f := owner.Facts{Container: in, User: c.User, Env: c.Env, Tags: s.tags}
	if !isContained(c) { // whose files have what names they like
		f.Executable, f.Script = c.Executable, scriptOf(c)
		if runs != nil {
			f.Package = packageThatCalls(c, runs)
		}
	}
	if c.Place != nil && !c.Place.UserUnit { // whose user names it
		f.Unit = c.Place.Unit
	}
	return a.people.copyOf(Who{
		Container: in, Software: runs,
		Owner:   owner.Find(a.options.Rules, a.options.Mapping, &f),
		Service: owner.Service(&f),
	})
}

func isContained(c *caller.Caller) bool {
	return c.ContainerID != "" || c.Place != nil && c.Place.PodUID != ""
}

// scriptOf is the script that the process runs or, of a program that a script called, that one: the nearest, and
// no further up than what started it.
func scriptOf(c *caller.Caller) string {
	own := caller.Process{Executable: c.Executable, Script: c.Program.Script}
	if runs := own.Runs(); runs != own.Executable {
		return runs
	}
	inContainer := c.Starter.Kind == caller.StartedByEntrypoint || c.Starter.Kind == caller.StartedByRuntime
	for _, p := range c.Ancestors {
		starts := p.PID == c.Starter.PID
		if starts && !inContainer {
			break
		}
		if runs := p.Runs(); runs != p.Executable {
			return runs
		}
		if starts {
			break
		}
	}
	return ""
}

// packageThatCalls is the one of the script or of the program, but none of what runs scripts of others, or fetches
// what it is told to.
func packageThatCalls(c *caller.Caller, runs *software.Software) string {
	if runs.ScriptPackage.Name != "" || c.Program.Interpreter != "" || client.IsTool(c.Executable) {
		return runs.ScriptPackage.Name
	}
	return runs.Package.Name
}
