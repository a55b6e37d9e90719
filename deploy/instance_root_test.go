//go:build root

package deploy

import (
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

// simulatedInstance is a lab with a metadata service that requires IMDSv2.
func simulatedInstance(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
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
	return l
}

// expectStatus makes an IMDSv1 call from the host with an unmodified curl. It puts itself into a cgroup
// beside the containers': above these there can be no process.
func expectStatus(t *testing.T, l *lab.Lab, want string) {
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
	if got := out.String(); got != want {
		t.Errorf("an IMDSv1 call got status %s, want %s", got, want)
	}
}

// awaitReady waits until the bridge says that calls come to it.
func awaitReady(t *testing.T, l *lab.Lab) {
	t.Helper()
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

func await(t *testing.T, what string, ready func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// tempDir is a directory with a path short enough for a socket, and open to other users: t.TempDir is
// neither.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "imds-bridge")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
