//go:build root

package cri

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container/containertest"
	"github.com/imds-bridge/imds-bridge/lab"
)

// containerd is a real one, with an image that holds testdata/sleep and nothing else. Its lab's network
// leads nowhere.
type containerd struct {
	*containertest.Containerd
}

func startContainerd(t *testing.T) *containerd {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		containertest.RemoveFirstVersion(t, l)
	})
	program := filepath.Join(t.TempDir(), "sleep")
	build := exec.Command("go", "build", "-o", program, "./testdata/sleep")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return &containerd{containertest.StartContainerd(t, l, program)}
}

// source is one that has patience with a busy machine, and leaves the most to the events.
func (d *containerd) source() *Source {
	return newSource(slog.New(slog.DiscardHandler), d.Socket, pace{patience: 20 * time.Second, pulse: time.Minute, soon: time.Second, lists: time.Minute})
}

// run runs a container that lives for a while.
func (d *containerd) run(t *testing.T, p *containertest.Pod, name, lives string) (id string) {
	t.Helper()
	return d.Run(t, p, name, []string{"/sleep", lives})
}
