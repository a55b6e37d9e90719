package hook

// Capabilities are what the eBPF redirector needs, and all that it needs.
//
//   - CAP_BPF loads the programs and, before Linux 5.19, reads their maps;
//   - CAP_NET_ADMIN attaches them, marks the bridge's own sockets and adds the listener's address;
//   - CAP_PERFMON lets them read the task that connects.
//
// On a host without any cgroup2 mount CAP_SYS_ADMIN is needed besides, to mount one.
var Capabilities = []string{"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"}
