package iptables

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/leaktest"
)

// roles are what this binary does instead of testing when a test has started it as a child. The
// environment variable roleVariable names the role, taskVariable what it is to do, as JSON.
var roles = map[string]func() error{}

const (
	roleVariable = "IPTABLES_TEST_ROLE"
	taskVariable = "IPTABLES_TEST_TASK"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	leaktest.Main(m)
}

// play plays a role, with fewer capabilities if that is asked for.
func play(role string) error {
	if err := bound(); err != nil {
		return err
	}
	return roles[role]()
}

const boundVariable = "IPTABLES_TEST_BOUND"

// bound starts the role anew with no more than the capabilities in a variable: the bounding set is the
// limit of what exec gives to root.
func bound() error {
	names, ok := os.LookupEnv(boundVariable)
	if !ok {
		return nil
	}
	runtime.LockOSThread() // exec leaves this thread alone
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if slices.ContainsFunc(strings.Fields(names), func(name string) bool { return capabilityBits[name] == uint(c) }) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	if err := os.Unsetenv(boundVariable); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}
