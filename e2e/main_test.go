package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// scratch holds what is built once: the binary, the clients, and what they measure of themselves.
var scratch string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) (code int) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make network namespaces and cgroups: run them as root")
		return 1
	}
	var err error
	if scratch, err = os.MkdirTemp("", "imds-bridge-e2e"); err == nil {
		err = os.Chmod(scratch, 0o755) // the binary is also run by another user
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	defer func() {
		if err := unmountBPF(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}()
	return m.Run()
}

// binary is the path of imds-bridge, built as it is shipped but for what measures coverage.
var binary = built("imds-bridge", "..", "./cmd/imds-bridge", "-cover")

// built returns a function that builds a program at its first call. Like the one that is shipped, and
// fit for an image without a file but itself, it is static.
func built(name, directory, pkg string, flags ...string) func(t *testing.T) string {
	build := sync.OnceValues(func() (string, error) {
		to := filepath.Join(scratch, name)
		args := append([]string{"build", "-buildvcs=false", "-trimpath", "-o", to}, flags...)
		cmd := exec.Command("go", append(args, pkg)...)
		cmd.Dir = directory
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
		return to, nil
	})
	return func(t *testing.T) string {
		t.Helper()
		path, err := build()
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
}

// coverage is the directory for what instrumented binaries write at their end: GOCOVERDIR of this run
// if it is set, for go tool covdata.
var coverage = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		return dir, nil
	}
	dir := filepath.Join(scratch, "coverage")
	return dir, os.Mkdir(dir, 0o755)
})
