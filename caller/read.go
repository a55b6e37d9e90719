package caller

import "slices"

const (
	// maxAncestors also ends a walk that would go in circles.
	maxAncestors = 16
	// sharedAncestries is how many parents' lists are kept to be shared by their children.
	sharedAncestries = 1024
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
		c, err := r.look(p, before, buf)
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
			c.sign(o)
			r.own(c)
			return c
		}
		before = after
	}
	return r.recorded(o)
}

// look reads what /proc says of a process beyond its stat.
func (r *Reader) look(p process, s stat, buf []byte) (*Caller, error) {
	c := &Caller{Comm: s.comm}
	c.Executable, c.ExecutableDeleted = p.executable(buf)
	var err error
	if c.Args, err = p.args(buf); err != nil {
		return nil, err
	}
	lines, err := p.read("/cgroup", buf)
	if err != nil {
		return nil, err
	}
	cgroup := ParseCgroup(string(lines))
	c.Cgroup, c.ContainerID, c.ContainerRuntime = cgroup.Path, cgroup.ContainerID, cgroup.Runtime
	c.Ancestors = r.ancestors(s, buf)
	return c, nil
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
	r.ancestries.Add(parent, chain)
	return chain
}

// ancestor reads the parent of child. A parent started no later than its child, and whoever takes
// over its pid later, so the start time, read last, vouches for all of it.
func (r *Reader) ancestor(child stat, buf []byte) (Process, stat, bool) {
	p := processAt(r.proc, child.ppid)
	path, _ := p.executable(buf)
	s, err := p.stat(buf)
	if err != nil || s.started > child.started {
		return Process{}, stat{}, false
	}
	return Process{PID: child.ppid, Comm: s.comm, Executable: path}, s, true
}
