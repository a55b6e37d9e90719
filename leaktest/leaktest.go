// Package leaktest fails the tests of a package that leave something behind.
package leaktest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// Main runs the tests of a package, and ends the process with a failure when they leave a goroutine
// or a file descriptor behind. It is for a TestMain, and does not return.
func Main(m *testing.M) {
	// The runtime opens what it keeps for itself with the first socket.
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		_ = l.Close()
	}
	before := openFiles()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for fd, file := range openFiles() {
			if before[fd] == "" {
				fmt.Fprintf(os.Stderr, "leaked file descriptor %s: %s\n", fd, file)
				code = max(code, 1)
			}
		}
		os.Exit(code) //nolint:forbidigo // as a TestMain does
	}))
}

// openFiles are the descriptors of this process, and what they are of.
func openFiles() map[string]string {
	files := make(map[string]string)
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		// The one that read the directory is closed by now.
		if file, err := os.Readlink(link); err == nil {
			files[filepath.Base(link)] = file
		}
	}
	return files
}
