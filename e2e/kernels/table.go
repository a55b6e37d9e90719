package main

import (
	"fmt"
	"slices"
)

// suite is the tests of one package that meet the kernel.
type suite struct {
	folder   string
	tag      string   // of the files with these tests: root, or vm for those that only a virtual machine may run
	programs []string // of this machine that they call, and patterns of files that those load
	modules  []string // that a host has loaded where the tests' subject works; others are loaded when asked for
	// What CI runs, by beginnings of the tests' names, on machines with version 2 of cgroups and on the
	// others. TCG is slow, so here stands what depends on the kernel, and nothing twice.
	ci, layouts []string
}

var suites = []suite{
	{
		folder: "lab", tag: "root", programs: []string{"sh", "sleep", "true", "grep", "readlink", "nsenter"},
		ci: []string{"TestTTLOfOne", "TestKillEach"},
	},
	{
		folder: "redirect", tag: "root",
		ci: []string{"TestListenAddsTheAddress", "TestLeftover"},
	},
	{
		folder: "redirect/hook", tag: "root",
		ci: []string{
			"TestConnectOfEveryKind", "TestHostProcessIsRecordedWhole", "TestExecIsTold", "TestRecordIsGoneWhenTheClient",
			"TestHopLimitIsThat", "TestFirstOfTwoBridges", "TestBridgeWorksWith",
		},
		layouts: []string{"TestHostProcessIsRecordedWhole", "TestCgroup"},
	},
	{
		folder: "redirect/watch", tag: "root",
		ci:      []string{"TestCallIsToldWhole", "TestRawSocket"},
		layouts: []string{"TestCallIsToldWhole"},
	},
	{
		folder: "redirect/owner", tag: "root",
		ci: []string{"TestProcessInAContainer", "TestExecIsTold", "TestKnownProcessIsTold", "TestProcessThatHoldsUp"},
	},
	{
		folder: "redirect/iptables", tag: "root", programs: append([]string{"ip"}, iptables...),
		// The programs of iptables load these themselves, with a capability that the bridge does not ask for.
		modules: []string{"ip_tables", "ip6_tables"},
		ci:      []string{"TestCallsAreRedirected", "TestAnswersOfABridge"},
		layouts: []string{"TestCallerIsTheOneThatTheHook"},
	},
	{
		folder: "cmd/imds-bridge", tag: "vm",
		layouts: []string{"TestClock"},
	},
}

var iptables = []string{
	"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore",
	"iptables-nft", "iptables-nft-save", "iptables-nft-restore", "ip6tables-nft", "ip6tables-nft-save", "ip6tables-nft-restore",
	"iptables-legacy", "iptables-legacy-save", "iptables-legacy-restore", "ip6tables-legacy", "ip6tables-legacy-save", "ip6tables-legacy-restore",
	"/usr/lib/*/xtables/*.so",
}

// layout is which hierarchies of cgroups a machine has, and where.
type layout string

const (
	unified layout = "v2"     // version 2 alone, as systemd has it today
	hybrid  layout = "hybrid" // version 1 for the controllers, version 2 beside it
	legacy  layout = "v1"     // version 1 alone, as Amazon Linux 2
)

// machine is one to boot.
type machine struct {
	name    string
	release string // of Debian
	cgroups layout
}

var machines = []machine{
	{"5.10", "bullseye", unified},
	{"5.10-v1", "bullseye", legacy},
	{"5.10-hybrid", "bullseye", hybrid},
	{"6.1", "bookworm", unified},
	{"6.12", "trixie", unified},
	{"newest", "sid", unified},
}

// choose returns the machines to boot.
func choose(o options) ([]machine, error) {
	if o.only == "" {
		return machines, nil
	}
	var names []string
	for _, m := range machines {
		if m.name == o.only {
			return []machine{m}, nil
		}
		names = append(names, m.name)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("no machine %q: there are %q", o.only, names)
}
