package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// In no thread may more be left than the running bridge uses.
func TestPrivilegesAreDroppedOnceReady(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	b := i.startBridge(t, bridgeOptions{})
	i.bridgeToken(t) // what is left is enough to serve

	kept := fmt.Sprintf("%016x", uint64(1<<unix.CAP_SYS_PTRACE|1<<unix.CAP_NET_ADMIN|1<<unix.CAP_BPF))
	want := map[string]string{
		"CapEff": kept, "CapPrm": kept,
		"CapInh": "0000000000000000", "CapAmb": "0000000000000000",
		"NoNewPrivs": "1",
	}
	if own := status(t, fmt.Sprintf("/proc/%d/status", os.Getpid())); own["CapPrm"] == kept {
		t.Fatal("this process has no more than the bridge is to keep: this test cannot fail")
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", b.cmd.Process.Pid))
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads of the bridge: %v, %v", threads, err)
	}
	for _, thread := range threads {
		got := status(t, thread)
		for name := range want {
			if got[name] != want[name] {
				t.Errorf("%s: %s %q, want %q", thread, name, got[name], want[name])
			}
		}
	}
}

// status reads a file of the form name: value.
func status(t *testing.T, path string) map[string]string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		values[name] = strings.TrimSpace(value)
	}
	return values
}
