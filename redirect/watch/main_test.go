package watch

import (
	"fmt"
	"os"
	"testing"

	"github.com/imds-bridge/imds-bridge/leaktest"
)

// roles are what this binary does instead of testing when a test has started it as a child. The
// environment variable roleVariable names the role.
var roles = map[string]func() error{}

const roleVariable = "WATCH_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	leaktest.Main(m)
}

func play(role string) int {
	if err := roles[role](); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		return 1
	}
	return 0
}
