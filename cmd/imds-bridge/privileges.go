package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
	"github.com/imds-bridge/imds-bridge/redirect/iptables"
	"github.com/imds-bridge/imds-bridge/redirect/owner"
	"github.com/imds-bridge/imds-bridge/redirect/watch"
)

// privileges are the capabilities that a run needs to start, and those that it keeps.
type privileges struct{ needed, kept []string }

// privilegesOf are those of a redirector. install says that the bridge puts iptables rules in place
// itself; in a sidecar that does not, it needs none, and with some it names processes of its pod.
func privilegesOf(redirector string, install bool) privileges {
	switch {
	case redirector == redirectIPTables && !install:
		return privileges{kept: union(owner.Capabilities, caller.Capabilities)}
	case redirector == redirectIPTables:
		return privileges{
			needed: union(iptables.Capabilities, owner.Capabilities, caller.Capabilities),
			// CAP_NET_ADMIN marks sockets and removes the listener's address at stop. The rules have a
			// guard, with privileges of its own.
			kept: union(owner.Capabilities, caller.Capabilities, []string{"CAP_NET_ADMIN"}),
		}
	default:
		return privileges{
			needed: union(hook.Capabilities, watch.Capabilities, caller.Capabilities),
			// As above; CAP_BPF reads maps on kernels before 5.19.
			kept: union(caller.Capabilities, []string{"CAP_NET_ADMIN", "CAP_BPF"}),
		}
	}
}

func union(sets ...[]string) []string {
	all := slices.Concat(sets...)
	slices.Sort(all)
	return slices.Compact(all)
}

var capabilityBits = map[string]uint{
	"CAP_NET_ADMIN":       unix.CAP_NET_ADMIN,
	"CAP_NET_RAW":         unix.CAP_NET_RAW,
	"CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
	"CAP_SYS_PTRACE":      unix.CAP_SYS_PTRACE,
	"CAP_SYS_ADMIN":       unix.CAP_SYS_ADMIN,
	"CAP_PERFMON":         unix.CAP_PERFMON,
	"CAP_BPF":             unix.CAP_BPF,
}

// missingCapabilities returns those of names that the process does not have.
func missingCapabilities(names []string) ([]string, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return nil, fmt.Errorf("read own capabilities: %w", err)
	}
	// CAP_SYS_ADMIN stands in for the two that were split off from it in Linux 5.8.
	admin := has(data, unix.CAP_SYS_ADMIN)
	var missing []string
	for _, name := range names {
		standIn := admin && (name == "CAP_BPF" || name == "CAP_PERFMON")
		if !has(data, capabilityBits[name]) && !standIn {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

func has(data [2]unix.CapUserData, bit uint) bool {
	return data[bit/32].Effective&(1<<(bit%32)) != 0
}

// checkPrivileges says what is missing, in words that name the next step.
func checkPrivileges(needed []string) error {
	missing, err := missingCapabilities(needed)
	if err != nil || len(missing) == 0 {
		return err
	}
	if unix.Geteuid() != 0 {
		return fmt.Errorf("not enough privileges: run it as root, or give it %s (systemd: AmbientCapabilities=; containers: securityContext.capabilities.add)", strings.Join(missing, " "))
	}
	return fmt.Errorf("root, but without %s: a container or unit takes it away; add it there", strings.Join(missing, " "))
}

// errCgo is returned by dropPrivileges in a build with cgo, where Go does not know all threads.
// make build has none.
var errCgo = errors.New("built with cgo: capabilities cannot be dropped")

// dropPrivileges gives up, in every thread and for good, all capabilities but names that the
// process has, and the way to get new ones.
func dropPrivileges(names []string) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	var keep [2]uint32
	for _, name := range names {
		bit := capabilityBits[name]
		keep[bit/32] |= 1 << (bit % 32)
	}
	for i := range data {
		data[i].Effective &= keep[i]
		data[i].Permitted &= keep[i]
		data[i].Inheritable = 0
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno == unix.ENOTSUP {
		return errCgo
	} else if errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}
