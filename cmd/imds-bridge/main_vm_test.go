//go:build vm && !root

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// bridgeRole makes a child of this binary imds-bridge, with the arguments that it is given.
const bridgeRole = "IMDS_BRIDGE_TEST_MAIN"

// TestMain runs tests that change the whole machine: nowhere but in one that make test-kernels made.
func TestMain(m *testing.M) {
	if os.Getenv(bridgeRole) != "" {
		os.Unsetenv(bridgeRole) // which is no setting of the bridge
		main()
		return
	}
	if line, _ := os.ReadFile("/proc/cmdline"); !strings.Contains(string(line), "imds-bridge-vm") {
		fmt.Fprintln(os.Stderr, "these tests set the machine's clock: make test-kernels runs them in a virtual machine")
		os.Exit(1)
	}
	os.Exit(m.Run())
}
