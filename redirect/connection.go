package redirect

import (
	"errors"
	"net/netip"
	"time"
)

// ErrNoRecord is returned by a redirector's Lookup for a connection that it did not redirect:
// somebody dialled the listener.
var ErrNoRecord = errors.New("no record of the connection: it was not redirected")

// Connection is what a redirector knows of who asked for IMDS. What it does not know is zero.
type Connection struct {
	PID, TID, PPID uint32        // in the initial pid namespace; PID is the thread group's
	UID, GID       uint32        // in the initial user namespace
	Comm           string        // of the thread that connected
	Started        time.Duration // start of the process since boot (CLOCK_BOOTTIME)
	ExecID         uint64        // changes with every execve of the process
	CgroupID       uint64        // cgroup2; one for all on a host without cgroup2 of its own
	NetNSCookie    uint64
	NetNS          uint32 // inode number
	OwnNetNS       bool   // the bridge's own network namespace
	// Ambiguous is set when another network namespace holds the same addresses and ports, or
	// another process the same socket: who is the caller is not certain.
	Ambiguous bool
	Socket    uint64         // the socket's cookie
	Original  netip.AddrPort // what the caller asked for; ::ffff:169.254.169.254 from a dual-stack socket
	Connected time.Duration  // when connect() was called (CLOCK_MONOTONIC)
}
