//go:build root

package docker

import (
	"archive/tar"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

// A real daemon, with an image that holds testdata/sleep and nothing else. It runs in a lab, whose
// network leads nowhere, and in a mount namespace of its own, where it has the host's directories to itself.
type real struct {
	t       *testing.T
	lab     *lab.Lab
	socket  string
	dir     string
	running *exec.Cmd
	exited  chan error
	log     bytes.Buffer
	// command starts the daemon; client and create begin the arguments of its client.
	command, client, create []string
}

const private = `for d in /run /var/lib /var/cache /var/tmp; do mount -t tmpfs tmpfs $d || exit 1; done; exec "$@"`

// startDocker starts dockerd. Its containers are in the lab's cgroup.
func startDocker(t *testing.T) *real {
	t.Helper()
	r := newReal(t)
	cgroup := filepath.Base(filepath.Dir(r.lab.Cgroup()))
	config := filepath.Join(r.dir, "daemon.json") // rather than the machine's
	if err := os.WriteFile(config, fmt.Appendf(nil, `{"deprecated-key-path": %q}`, filepath.Join(r.dir, "key.json")), 0o600); err != nil {
		t.Fatal(err)
	}
	r.command = []string{"dockerd", "--config-file=" + config, "--host=unix://" + r.socket, "--pidfile=" + filepath.Join(r.dir, "pid"),
		"--data-root=" + filepath.Join(r.dir, "data"), "--exec-root=" + filepath.Join(r.dir, "exec"), "--storage-driver=vfs",
		"--exec-opt=native.cgroupdriver=cgroupfs", "--cgroup-parent=/" + cgroup + "/docker", "--bridge=none",
		"--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false", "--userland-proxy=false", "--log-level=warn"}
	r.client = []string{"docker", "--host=unix://" + r.socket}
	r.create = []string{"create", "--network=none"}
	r.start()
	r.load()
	return r
}

// startPodman starts Podman's service. Its containers have no cgroups of their own.
func startPodman(t *testing.T) *real {
	t.Helper()
	r := newReal(t)
	// Else crun sets limits that are above its own.
	config := filepath.Join(r.dir, "containers.conf")
	if err := os.WriteFile(config, []byte("[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Nor does it run on hosts that have both versions of cgroups, so it gets to see the second alone.
	r.command = []string{"sh", "-c", `umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"`, "podman",
		"env", "CONTAINERS_CONF=" + config, "podman", "--root=" + filepath.Join(r.dir, "root"), "--runroot=" + filepath.Join(r.dir, "runroot"),
		"--tmpdir=" + filepath.Join(r.dir, "tmp"), "--network-config-dir=" + filepath.Join(r.dir, "net"), "--storage-driver=vfs", "--runtime=crun",
		"--cgroup-manager=cgroupfs", "--events-backend=file", "system", "service", "--time=0", "unix://" + r.socket}
	r.client = []string{"podman", "--remote", "--url=unix://" + r.socket}
	r.create = []string{"create", "--network=none", "--cgroups=disabled"}
	r.start()
	r.load()
	return r
}

func newReal(t *testing.T) *real {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "daemon") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	r := &real{t: t, lab: l, dir: dir, socket: filepath.Join(dir, "socket")}
	t.Cleanup(func() {
		if r.running != nil {
			r.stop()
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		removeFirstVersion(t, filepath.Base(filepath.Dir(l.Cgroup())))
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return r
}

// start starts the daemon, and waits until it listens.
func (r *real) start() {
	r.t.Helper()
	r.running = exec.Command("sh", append([]string{"-c", private, "private"}, r.command...)...)
	r.log.Reset()
	r.running.Stdout, r.running.Stderr = &r.log, &r.log
	r.running.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := r.lab.Host().Start(r.running); err != nil {
		r.t.Fatal(err)
	}
	r.exited = make(chan error, 1)
	go func() { r.exited <- r.running.Wait() }()
	await(r.t, r.client[0]+" listens", func() bool {
		conn, err := net.Dial("unix", r.socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// stop stops the daemon. What it does not end goes with the lab.
func (r *real) stop() {
	r.t.Helper()
	_ = r.running.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.exited:
	case <-time.After(20 * time.Second):
		r.t.Errorf("%s does not end", r.client[0])
		_ = r.running.Process.Kill()
		<-r.exited
	}
	r.running = nil
	if r.t.Failed() {
		r.t.Logf("%s:\n%s", r.client[0], &r.log)
	}
}

// run runs the daemon's client, and returns what it writes.
func (r *real) run(t *testing.T, args ...string) string {
	t.Helper()
	return r.runWith(t, nil, args...)
}

func (r *real) runWith(t *testing.T, stdin *bytes.Buffer, args ...string) string {
	t.Helper()
	cmd := exec.Command(r.client[0], append(r.client[1:len(r.client):len(r.client)], args...)...)
	if stdin != nil {
		cmd.Stdin = stdin
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%.200s: %v\n%s", cmd, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// make makes a container that lives for a while once it is started, and returns its id.
func (r *real) make(t *testing.T, name, lives string, labels ...string) string {
	t.Helper()
	args := append(r.create[:len(r.create):len(r.create)], "--name="+name)
	for _, label := range labels {
		args = append(args, "--label="+label)
	}
	return r.run(t, append(args, "sleep:1", "/sleep", lives)...)
}

// load makes the image.
func (r *real) load() {
	r.t.Helper()
	program, err := sleeper()
	if err != nil {
		r.t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "sleep", Mode: 0o755, Size: int64(len(program))}); err != nil {
		r.t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		r.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.runWith(r.t, &layer, "import", "--change=LABEL io.kubernetes.pod.uid=of-the-image", "-", "sleep:1")
}

// sleeper is the program, which needs no library.
var sleeper = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "sleep")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", dir, "./testdata/sleep")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v\n%s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "sleep"))
})

// removeFirstVersion removes the cgroups of the first version that Docker leaves behind on hosts
// that have it, once the containers that were killed are out of them.
func removeFirstVersion(t *testing.T, cgroup string) {
	t.Helper()
	tops, err := filepath.Glob("/sys/fs/cgroup/*/" + cgroup)
	if err != nil {
		t.Fatal(err)
	}
	for _, top := range tops {
		await(t, top+" is left", func() bool {
			below, _ := filepath.Glob(top + "/docker/*/")
			for _, dir := range append(below, filepath.Join(top, "docker"), top) {
				err = os.Remove(dir)
			}
			return err == nil
		})
	}
}
