package doctor

import (
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/imds-bridge/imds-bridge/leaktest"
	"github.com/imds-bridge/imds-bridge/redirect/iptables"
)

// roles are what this binary does instead of testing when a test has started it as a child. The
// environment variable roleVariable names the role.
var roles = map[string]func() error{
	"child": func() error { return Connect(os.Stdin, os.Stdout) },
	"guard": func() error { return iptables.RunGuard(os.NewFile(3, "bridge"), slog.New(slog.DiscardHandler)) },
}

const roleVariable = "DOCTOR_TEST_ROLE"

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

// capture reads a file of testdata: what a tool or the kernel said on a real host.
func capture(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
