package watch

// Capabilities are what the watch needs, and all that it needs.
//
//   - CAP_BPF loads the programs and reads their maps;
//   - CAP_NET_ADMIN attaches them, and closes connections;
//   - CAP_PERFMON lets them read the socket, and who sends by a raw one.
var Capabilities = []string{"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"}
