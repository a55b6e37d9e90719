package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func checkListener(_ context.Context, h *host) (findings []Finding) {
	for _, at := range []netip.AddrPort{h.options.Listen, h.options.Listen6} {
		if at.IsValid() {
			findings = append(findings, h.lookAtListener(at)...)
		}
	}
	return findings
}

func (h *host) lookAtListener(at netip.AddrPort) []Finding {
	setting := "redirect.listen"
	if at.Addr().Is6() {
		setting = "redirect.listen6"
		if disabled, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6"); err != nil || strings.TrimSpace(string(disabled)) != "0" {
			return []Finding{{Status: OK, Found: at.String() + " is not used: IPv6 is off on lo", Means: "the IPv6 endpoint is not redirected"}}
		}
	}
	sockets, err := listeners(at)
	if err != nil {
		return []Finding{{Status: Unknown, Found: "listeners cannot be listed: " + err.Error()}}
	}
	if len(sockets) == 0 {
		return []Finding{{Status: OK, Found: at.String() + " is free"}}
	}
	holders := owners(sockets)
	return []Finding{judgeHolder(at, setting, holders, len(h.bridges()) > 0)}
}

// judgeHolder says what it means that somebody listens where the bridge is to.
func judgeHolder(at netip.AddrPort, setting string, holders []process, bridgeRuns bool) Finding {
	var names []string
	own := len(holders) > 0
	for _, p := range holders {
		names = append(names, p.String())
		own = own && p.comm == "imds-bridge"
	}
	switch {
	case own:
		return Finding{Status: OK, Found: fmt.Sprintf("%s is taken by %s", at, strings.Join(names, ", ")), Means: "by the bridge that runs"}
	case len(names) > 0:
		return Finding{
			Status: Fail, Found: fmt.Sprintf("%s is taken by %s", at, strings.Join(names, ", ")),
			Means: "the bridge cannot listen there", Remedy: "end that process, or set " + setting + " to another address or port",
		}
	case bridgeRuns:
		return Finding{Status: Unknown, Found: at.String() + " is taken by a process that may not be seen", Means: "a bridge runs: it is probably that", Remedy: "run the doctor as root"}
	default:
		return Finding{
			Status: Fail, Found: at.String() + " is taken by a process that may not be seen", Means: "the bridge cannot listen there",
			Remedy: "run the doctor as root to see which it is; or set " + setting + " to another address or port",
		}
	}
}

// listeners returns the inodes of the sockets that accept connections to an address.
func listeners(at netip.AddrPort) (inodes []uint32, err error) {
	families := []uint8{unix.AF_INET6}
	if at.Addr().Is4() {
		families = append(families, unix.AF_INET) // [::] takes IPv4 connections too
	}
	for _, family := range families {
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil {
			return nil, err
		}
		for _, s := range sockets {
			ip, ok := netip.AddrFromSlice(s.ID.Source)
			if ok && s.State == netlink.TCP_LISTEN && s.ID.SourcePort == at.Port() && (ip.Unmap() == at.Addr() || ip.IsUnspecified()) {
				inodes = append(inodes, s.INode)
			}
		}
	}
	return inodes, nil
}

// owners are the processes that hold sockets, as far as they may be seen.
func owners(inodes []uint32) (list []process) {
	wanted := make(map[string]bool)
	for _, n := range inodes {
		wanted[fmt.Sprintf("socket:[%d]", n)] = true
	}
	for _, pid := range pids() {
		if holdsAny(pid, wanted) {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			list = append(list, process{pid, strings.TrimSpace(string(comm))})
		}
	}
	return list
}

func holdsAny(pid int, wanted map[string]bool) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if link, err := os.Readlink(dir + "/" + f.Name()); err == nil && wanted[link] {
			return true
		}
	}
	return false
}
