//go:build root

package deploy

import (
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/lab"
)

const image = "imds-bridge:test"

// An unmodified curl makes an IMDSv1 call to a service that requires IMDSv2: directly, then with the
// bridge from the image. The image is built without any other one.
func TestImageBridgesCalls(t *testing.T) {
	l := simulatedInstance(t)
	d := startDocker(t, l)
	d.run(t, "build", "--build-arg", "BINARY=prebuilt", "--tag", image, buildContext(t))
	checkSize(t, d)
	if out := d.run(t, "run", "--rm", "--network=none", image, "version"); !strings.HasPrefix(out, "imds-bridge ") {
		t.Errorf("version: %s", out)
	}

	expectStatus(t, l, "401")
	startContainer(t, l, d)
	expectStatus(t, l, "200")
	d.run(t, "stop", "bridge")
	expectStatus(t, l, "401")
}

// buildContext is what `docker build` takes from a repository after `make build`.
func buildContext(t *testing.T) string {
	t.Helper()
	dir := tempDir(t)
	for _, name := range []string{"Dockerfile", ".dockerignore"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(read(t, "../"+name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("make", "--directory=..", "build", "BINARY="+filepath.Join(dir, "bin/imds-bridge"))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	return dir
}

func checkSize(t *testing.T, d docker) {
	t.Helper()
	save := d.command("save", image)
	tar, err := save.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := save.Start(); err != nil {
		t.Fatal(err)
	}
	var size byteCount
	compressor := gzip.NewWriter(&size)
	if _, err := io.Copy(compressor, tar); err != nil {
		t.Fatal(err)
	}
	if err := compressor.Close(); err != nil {
		t.Fatal(err)
	}
	if err := save.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("the image has %.1f MiB compressed", float64(size)/(1<<20))
	if size >= 15<<20 {
		t.Errorf("the image has %d bytes compressed, want less than 15 MiB", size)
	}
}

type byteCount int64

func (c *byteCount) Write(p []byte) (int, error) {
	*c += byteCount(len(p))
	return len(p), nil
}

// startContainer runs the image as the task of ECS does, whose capabilities this Docker knows all.
func startContainer(t *testing.T, l *lab.Lab, d docker) {
	t.Helper()
	args := []string{"run", "--detach", "--name=bridge", "--network=host", "--pid=host", "--read-only",
		"--cap-drop=ALL", "--volume=" + l.Cgroup() + ":/host/cgroup:ro",
		"--env=IMDS_BRIDGE_REDIRECT_CGROUP=/host/cgroup"}
	for _, capability := range taskCapabilities(t).Add {
		args = append(args, "--cap-add="+capability)
	}
	if !l.HasIPv6() {
		args = append(args, "--env=IMDS_BRIDGE_REDIRECT_LISTEN6=")
	}
	d.run(t, append(args, image)...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("bridge:\n%s", d.run(t, "logs", "bridge"))
		}
		d.run(t, "rm", "--force", "bridge")
	})
	awaitReady(t, l)
}
