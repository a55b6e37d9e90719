package docker

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Sockets finds the sockets of daemons that are there, the host's before those of users. One with two
// names is told once. Those of users are in directories that they alone may enter: root needs
// CAP_DAC_READ_SEARCH to see them, and CAP_DAC_OVERRIDE to connect.
func Sockets() []string { return sockets("/") }

func sockets(root string) []string {
	var paths []string
	var found []os.FileInfo
	for _, pattern := range []string{
		"run/docker.sock", "var/run/docker.sock", "run/podman/podman.sock",
		"run/user/*/docker.sock", "run/user/*/podman/podman.sock",
	} {
		matches, _ := filepath.Glob(filepath.Join(root, pattern)) // fails for a malformed pattern alone
		for _, path := range matches {
			about, err := os.Stat(path)
			if err != nil || about.Mode().Type() != fs.ModeSocket {
				continue
			}
			if !slices.ContainsFunc(found, func(other os.FileInfo) bool { return os.SameFile(about, other) }) {
				found, paths = append(found, about), append(paths, path)
			}
		}
	}
	return paths
}
