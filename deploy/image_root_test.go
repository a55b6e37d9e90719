//go:build root

package deploy

import (
	"compress/gzip"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/simulator"
)

const image = "imds-bridge:test"

// An unmodified curl makes an IMDSv1 call to a service that requires IMDSv2: directly, then with the
// bridge from the image. The image is built without any other one.
func TestImageBridgesCalls(t *testing.T) {
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	simulate(t, l)
	d := startDocker(t, l)
	d.run(t, "build", "--build-arg", "BINARY=prebuilt", "--tag", image, buildContext(t))
	checkSize(t, d)
	if out := d.run(t, "run", "--rm", "--network=none", image, "version"); !strings.HasPrefix(out, "imds-bridge ") {
		t.Errorf("version: %s", out)
	}

	if status := curl(t, l); status != "401" {
		t.Errorf("directly: status %s, want 401", status)
	}
	startBridge(t, l, d)
	if status := curl(t, l); status != "200" {
		t.Errorf("through the bridge: status %s, want 200", status)
	}
	d.run(t, "stop", "bridge")
	if status := curl(t, l); status != "401" {
		t.Errorf("after the bridge: status %s, want 401", status)
	}
}

// buildContext is what `docker build` takes from a repository after `make build`.
func buildContext(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
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

// startBridge runs the image as the task of ECS does, whose capabilities this Docker knows all.
func startBridge(t *testing.T, l *lab.Lab, d docker) {
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
	client := http.Client{
		Timeout:   time.Second,
		Transport: &http.Transport{DialContext: l.Host().DialContext, DisableKeepAlives: true},
	}
	await(t, "the bridge to be ready", func() bool {
		resp, err := client.Get("http://127.0.0.1:8255/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// simulate serves a metadata service that requires IMDSv2.
func simulate(t *testing.T, l *lab.Lab) {
	t.Helper()
	service, err := simulator.New(simulator.Options{
		Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired},
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := l.IMDS().Listen("tcp4", l.IMDS().Addr().String()+":80")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- service.Serve(listener) }()
	t.Cleanup(func() {
		service.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// curl makes an IMDSv1 call from the lab's host and returns the status of the answer. It puts itself into
// a cgroup beside the containers': above these there can be no process.
func curl(t *testing.T, l *lab.Lab) string {
	t.Helper()
	cgroup := filepath.Join(l.Cgroup(), "host")
	if err := os.MkdirAll(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `echo $$ >"$0/cgroup.procs" && exec curl "$@"`, cgroup,
		"--silent", "--show-error", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}",
		"http://169.254.169.254/latest/meta-data/instance-id")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := l.Host().StartOutside(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("curl: %v: %s", err, &out)
	}
	return out.String()
}
