package caller

import (
	"bytes"
	"slices"
	"strings"
)

const (
	// maxAncestors also ends a walk that would go in circles.
	maxAncestors = 16
	// sharedAncestries is how many parents' lists are kept to be shared by their children.
	sharedAncestries = 1024
	// sharedCgroups is how many paths are kept to be shared by the processes there.
	sharedCgroups = 1024
	// maxExecs is how often a process may run exec while it is read.
	maxExecs = 3
)

// read names the process of o from /proc, as far as it is there.
func (r *Reader) read(o Origin) *Caller {
	p := processAt(r.proc, int(o.PID))
	buf := make([]byte, maxFile)
	before, err := p.stat(buf)
	// Another start time: another process has the pid now, or /proc numbers another pid namespace.
	if err != nil || before.dead || before.started != r.clock.ticks(o.Started) {
		return r.recorded(o)
	}
	for range maxExecs {
		c, err := r.look(p, o, before, buf)
		if err != nil {
			return r.recorded(o)
		}
		// If it is alive and still that process, what was read between is its own: a dead one has no
		// command line and may have left its container's cgroup. With another stack it ran exec
		// meanwhile, and what was read is half the one and half the other program.
		after, err := p.stat(buf)
		if err != nil || after.dead || after.started != before.started {
			return r.recorded(o)
		}
		if after.stack == before.stack {
			c.Complete = true
			c.Started = r.clock.wall(o.Started)
			o.Comm = shared(o.Comm)
			c.sign(o)
			r.own(c)
			return c
		}
		before = after
	}
	return r.recorded(o)
}

// look reads what /proc says of a process beyond its stat.
func (r *Reader) look(p process, o Origin, s stat, buf []byte) (*Caller, error) {
	c := &Caller{Origin: o, Comm: s.comm}
	c.Executable, c.ExecutableDeleted = p.executable(buf)
	line, partial, err := p.commandLine(buf)
	if err != nil {
		return nil, err
	}
	c.Args = shownArgs(line, partial)
	c.Program = p.program(c.Executable, line, partial)
	c.Env = p.environment(r.env)
	lines, err := p.read("/cgroup", buf)
	if err != nil {
		return nil, err
	}
	cgroup := r.cgroup(lines)
	c.Cgroup, c.ContainerID, c.ContainerRuntime, c.Place = cgroup.Path, cgroup.ContainerID, cgroup.Runtime, &cgroup.Place
	c.Starting = isRuntimeInit(c)
	c.Ancestors = r.ancestors(s, buf)
	c.Starter = startedBy(c, func(pid int) int { return processAt(r.proc, pid).innerPID(buf) })
	return c, nil
}

// cgroup parses the text of a cgroup file. The thousand processes of one container share the result.
func (r *Reader) cgroup(text []byte) *Cgroup {
	if len(text) == maxFile {
		text = text[:bytes.LastIndexByte(text, '\n')+1] // half a path may name another container
	}
	path := choosePath(string(text))
	if known, ok := r.cgroups.Get(path); ok {
		return known
	}
	path = strings.Clone(path) // text goes
	cgroup := parsePath(path)
	if len(path) <= maxCgroup {
		r.cgroups.Add(path, &cgroup)
	}
	return &cgroup
}

// isRuntimeInit tells whether c is runc on its way to become a container's program. Its executable is
// a copy or a mount of its own, which has no name any more, or / as runc 1.1 makes it. Name and
// arguments anybody can give himself, and then gets no more than to be read at each call.
func isRuntimeInit(c *Caller) bool {
	unnamed := c.Executable == "/" || c.Executable == "" || strings.Contains(c.Executable, "runc")
	return unnamed && strings.HasPrefix(c.Comm, "runc:[") && len(c.Args) == 2 && c.Args[1] == "init"
}

// ancestors walks from the parent of child up to pid 1.
//
// Ancestors are read anew for each caller. Remembering them would save some 50 µs of a new caller,
// but show a shell that has become something else by exec, which no key in /proc tells. Only equal
// lists share their memory: the thousand children of one cron job have one.
func (r *Reader) ancestors(child stat, buf []byte) []Process {
	parent := child.ppid
	chain := make([]Process, 0, maxAncestors)
	for child.ppid > 0 && len(chain) < maxAncestors {
		ancestor, s, ok := r.ancestor(child, buf)
		if !ok {
			break
		}
		chain = append(chain, ancestor)
		child = s
	}
	if shared, ok := r.ancestries.Get(parent); ok && slices.Equal(shared, chain) {
		return shared
	}
	chain = slices.Clip(slices.Clone(chain))
	for i := range chain {
		chain[i].Script = shared(chain[i].Script)
	}
	r.ancestries.Add(parent, chain)
	return chain
}

// ancestor reads the parent of child. A parent started no later than its child, and whoever takes
// over its pid later, so the start time, read last, vouches for all of it.
func (r *Reader) ancestor(child stat, buf []byte) (Process, stat, bool) {
	p := processAt(r.proc, child.ppid)
	path, _ := p.executable(buf)
	script := p.script(path, buf)
	s, err := p.stat(buf)
	if err != nil || s.started > child.started {
		return Process{}, stat{}, false
	}
	return Process{PID: child.ppid, Comm: s.comm, Executable: path, Script: script}, s, true
}
