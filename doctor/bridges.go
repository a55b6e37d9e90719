package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process is a running one.
type process struct {
	pid  int
	comm string
}

func (p process) String() string { return fmt.Sprintf("%s (pid %d)", p.comm, p.pid) }

// runningBridges are the processes `imds-bridge run` of this host, as far as /proc shows them. One in
// another network namespace, as in a sidecar, is none of this host's.
func runningBridges() (list []process) {
	own, _ := os.Readlink("/proc/thread-self/ns/net")
	for _, pid := range pids() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)) // "" where it is hidden, on Linux 5.10 without an error
		if err == nil && isBridge(string(line)) && (ns == own || ns == "") {
			list = append(list, process{pid, "imds-bridge"})
		}
	}
	return list
}

// isBridge reads a command line as /proc has it.
func isBridge(cmdline string) bool {
	args := strings.Split(cmdline, "\x00")
	return len(args) > 1 && filepath.Base(args[0]) == "imds-bridge" && args[1] == "run"
}

func pids() (list []int) {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, e := range entries {
		if pid, err := strconv.Atoi(filepath.Base(e)); err == nil {
			list = append(list, pid)
		}
	}
	return list
}

func checkBridges(_ context.Context, h *host) []Finding {
	bridges := h.bridges()
	if len(bridges) == 0 {
		return []Finding{{Status: OK, Found: "none runs"}}
	}
	names := make([]string, len(bridges))
	for i, b := range bridges {
		names[i] = fmt.Sprintf("pid %d", b.pid)
	}
	return []Finding{{Status: OK, Found: "one runs: " + strings.Join(names, ", "), Means: "another may start beside it, with other listeners, or take over from it"}}
}
