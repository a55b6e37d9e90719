package caller

import (
	"strings"
	"time"
)

// Capabilities are what a [Reader] needs to read the program, the arguments and the namespaces of
// other users' processes.
var Capabilities = []string{"CAP_SYS_PTRACE"}

// Origin is what the kernel recorded of a process when it called connect().
type Origin struct {
	// PID is the thread group, TID the thread that connected and PPID the parent's thread group, all
	// as the initial pid namespace numbers them.
	PID, TID, PPID uint32
	// UID and GID are those of the initial user namespace.
	UID, GID uint32
	// NetNS (an inode number) and NetNSCookie are those of the socket's network namespace.
	NetNS       uint32
	NetNSCookie uint64
	// Comm is the name of the thread that connected, as it chose it.
	Comm string
	// Started is when the process started, since boot by CLOCK_BOOTTIME, in nanoseconds
	// (task->group_leader->start_boottime). It survives exec.
	Started time.Duration
	// ExecID changes with each exec (task->self_exec_id).
	ExecID uint64
	// CgroupID is the process's cgroup in the v2 hierarchy.
	CgroupID uint64
}

// Process is one ancestor of a caller.
type Process struct {
	PID  int
	Comm string
	// Executable is its path as the process sees it; "" for a kernel thread, or where it may not be read.
	Executable string
	// Script is what it runs if it is an interpreter; see [Program.Script].
	Script string
}

// Runs is what it runs: the file of its script, or else its executable.
func (p Process) Runs() string {
	if p.Script == "" || strings.HasPrefix(p.Script, "-") { // text that was given after -c
		return p.Executable
	}
	return p.Script
}

// Caller is the process that opened a connection, and what it runs in. It is shared: read it only.
//
// Its text is valid UTF-8 without control characters, and short, whatever the process calls itself.
type Caller struct {
	// Origin is the kernel's record, as it came: its Comm may hold any bytes. Show [Caller.Comm].
	Origin

	// Complete says that /proc knew the process of the record. Without it only what the kernel
	// recorded is filled in: the process was gone, or /proc is that of another pid namespace.
	Complete bool
	// Starting says that the process is still the container runtime's (runc init): it is about to
	// become the container's program, and is read again at its next call.
	Starting bool
	// ExecutableDeleted says that the file of Executable was removed or replaced after it was started.
	ExecutableDeleted bool

	// Comm is the process's name. [Origin] has that of the thread, which often differs in a JVM.
	Comm string
	// Executable is a path as the process sees it, so inside its container. It is "" for a kernel
	// thread, and for another user's process when the bridge lacks CAP_SYS_PTRACE.
	Executable string
	// Args is the command line as [Redact] shows it.
	Args []string
	// Program is what it runs if it is an interpreter.
	Program Program
	// Env are those variables of its environment that [Options] name, as it was when the caller was first
	// read; nil where there are none.
	Env map[string]string
	// User and Group are the host's names; "" when unknown, and always for a caller in a container or
	// pod, where the same number may be someone else.
	User, Group string
	// Started is by the wall clock of the time it was read.
	Started time.Time

	// Cgroup is the path of the v2 hierarchy, or on a host that keeps processes in v1 of that.
	Cgroup string
	// ContainerID and ContainerRuntime are what the cgroup path says; see [ParseCgroup].
	ContainerID, ContainerRuntime string
	// Place is what else the cgroup path says; nil if the caller is not Complete.
	Place *Place

	// Starter is what started it.
	Starter Starter
	// Ancestors are its parent, the parent's parent and so on up to pid 1, nearest first, at most 16,
	// as they were when the caller was read. If the parent of the record has ended since, the list
	// begins with the process that took its place.
	Ancestors []Process
}

// inContainer tells whether the process is in a container, or in a pod of Kubernetes or a task of ECS
// whose containers the path does not name.
func (c *Caller) inContainer() bool {
	return c.ContainerID != "" || c.Place != nil && (c.Place.PodUID != "" || c.Place.TaskID != "")
}
