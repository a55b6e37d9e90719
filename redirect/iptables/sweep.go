package iptables

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	goiptables "github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"
)

// Sweep takes away what no bridge uses any longer: rules whose guard is dead, those that refuse calls after
// a bridge that fails closed, and the ones of [Install]. It leaves those of a bridge that lives.
//
// A chain of ours that holds rules of somebody else is kept, without ours, and named.
func Sweep(t Tools) (Leftovers, error) {
	return sweep(t, func(chain string) bool { return !isAlive(tokenOf(chain)) })
}

// sweepDead is Sweep for a bridge that starts: the rules of Install are not its own.
func sweepDead(t Tools) (Leftovers, error) {
	return sweep(t, func(chain string) bool { return chain != chainPrefix && !isAlive(tokenOf(chain)) })
}

// sweep looks in the tables of all backends.
func sweep(t Tools, meant func(chain string) bool) (all Leftovers, err error) {
	var errs []error
	for name, proto := range map[string]goiptables.Protocol{"iptables": goiptables.ProtocolIPv4, "ip6tables": goiptables.ProtocolIPv6} {
		tools, err := installed(name, proto, t)
		errs = append(errs, err)
		for _, tl := range tools {
			for _, table := range []string{"nat", "filter"} {
				l, err := tl.remove(table, meant)
				all.add(l)
				if proto == goiptables.ProtocolIPv6 && err != nil && !hasIPv6Tables() {
					err = nil
				}
				errs = append(errs, err)
			}
		}
	}
	errs = append(errs, removeSets(isAlive))
	return all, errors.Join(errs...)
}

// hasIPv6Tables is false on a kernel without IPv6.
func hasIPv6Tables() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

func tokenOf(chain string) string {
	return strings.TrimPrefix(strings.TrimPrefix(chain, chainPrefix), "-")
}

// The guard of a token listens on an abstract Unix address while it lives. Such an address belongs to the
// network namespace, like the rules, and goes with the process, in whatever pid namespace that was.
func aliveAddress(token string) string { return "@imds-bridge/" + token }

func stayAlive(token string) (net.Listener, error) {
	return net.Listen("unix", aliveAddress(token))
}

// isAlive tells whether the guard of a token lives. Anybody may take over a dead one's address; a guard has
// CAP_NET_ADMIN.
func isAlive(token string) bool {
	if token == "" {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer func() { _ = unix.Close(fd) }()
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: aliveAddress(token)})
	if err != nil {
		return errors.Is(err, unix.EAGAIN) // its backlog is full
	}
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	return err != nil || mayAdministrate(peer.Pid)
}

// mayAdministrate is true also where it cannot be told, as of a process in another pid namespace.
func mayAdministrate(pid int32) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(status), "\nCapEff:")
	line, _, _ := strings.Cut(after, "\n")
	effective, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return err != nil || effective&(1<<unix.CAP_NET_ADMIN) != 0
}
