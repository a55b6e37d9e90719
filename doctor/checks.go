package doctor

// checks are all checks, in the order of the report: the kernel, what stands in the way, the metadata
// service, and the trials.
var checks = []check{
	{"kernel", checkKernel},
	{"btf", checkBTF},
	{"lockdown", checkLockdown},
	{"memlock", checkMemlock},
	{"cgroup", checkCgroup},
	{"capabilities", checkCapabilities},
	{"seccomp", checkSeccomp},
	{"hooks", checkHooks},
	{"iptables", checkIPTables},
	{"bridges", checkBridges},
	{"leftovers", checkLeftovers},
	{"listener", checkListener},
	{"firewall", checkFirewall},
	{"routing", checkRouting},
	{"routes", checkRoutes},
	{"namespaces", checkNamespaces},
	{"imds", checkIMDS},
	{"hop-limit", checkHopLimit},
	{"imds-v1", checkV1},
	{"imds-ipv6", checkIMDS6},
	{"trial-ebpf", checkHookTrial},
	{"trial-iptables", checkRulesTrial},
}

// choiceName is the check that says which redirector is taken.
const choiceName = "redirector"
