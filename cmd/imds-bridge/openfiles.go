package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// What connections take of the open files that the process may have: each its own and one to IMDS.
// The rest is for the bridge: listeners, kernel maps, logs, telemetry, /proc, and up to 120 for the
// programs of callers that are looked at.
const (
	filesOfConnection = 2
	filesOfBridge     = 192
)

// fitOpenFiles lowers a limit of connections to what the process may open, so that it turns callers
// away, or makes room, before accept fails. It says whether it had to.
func fitOpenFiles(connections int) (fitting int, lowered bool, err error) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return 0, false, fmt.Errorf("read the limit of open files: %w", err)
	}
	fitting, lowered = connectionsWithin(connections, files.Cur)
	return fitting, lowered, nil
}

func connectionsWithin(connections int, files uint64) (fitting int, lowered bool) {
	if files >= filesOfBridge+filesOfConnection*uint64(connections) {
		return connections, false
	}
	if files <= filesOfBridge {
		return 1, true
	}
	return max(1, int(files-filesOfBridge)/filesOfConnection), true
}
