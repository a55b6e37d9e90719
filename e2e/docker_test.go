package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var plain = built("plain", ".", "./clients/plain")

// docker is a Docker daemon of a test's own on the host of an instance, with an image that holds the
// client "plain" and nothing else. All that it keeps lies in a directory of the test, its mounts in a
// mount namespace, its containers in the instance's scratch cgroup.
type docker struct {
	*daemon
	client []string // begins the arguments of its client
	// cgroup holds containers and all else of the instance. A container's cgroup must not lie below
	// one that holds processes, such as lab.Cgroup: a kernel with cgroup2 alone refuses that.
	cgroup string
}

func (i *instance) startDocker(t *testing.T, flags ...string) docker {
	t.Helper()
	dir := socketDir(t, "docker")
	i.checkNothingLeft(t)
	socket := filepath.Join(dir, "socket")
	d := docker{client: []string{"docker", "--host=unix://" + socket}, cgroup: filepath.Dir(i.Cgroup())}
	config := filepath.Join(dir, "daemon.json") // rather than the machine's; the key would be written to /etc
	if err := os.WriteFile(config, fmt.Appendf(nil, `{"deprecated-key-path": %q}`, filepath.Join(dir, "key.json")), 0o600); err != nil {
		t.Fatal(err)
	}
	d.daemon = i.newDaemon(t, "dockerd", dir, socket, append([]string{
		"dockerd", "--config-file=" + config, "--host=unix://" + socket, "--pidfile=" + filepath.Join(dir, "pid"),
		"--data-root=" + filepath.Join(dir, "data"), "--exec-root=" + filepath.Join(dir, "exec"), "--storage-driver=vfs",
		"--exec-opt=native.cgroupdriver=cgroupfs", "--cgroup-parent=/" + filepath.Base(d.cgroup) + "/docker",
		// IMDS answers to the lab's networks for containers, and this is one. So nothing need be masqueraded.
		"--bip=172.30.255.1/24", "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false",
		"--userland-proxy=false", "--log-level=warn",
	}, flags...)...)
	d.start(t)
	d.load(t, plain(t))
	return d
}

// kill ends the daemon without a warning. Its containers go on, and with --live-restore the next one
// has them.
func (d docker) kill(t *testing.T) {
	t.Helper()
	d.daemon.kill(t)
	// Its containerd dies with it. As long as nobody has reaped that, the next daemon would take it for alive.
	if err := os.Remove(filepath.Join(d.dir, "exec/containerd/containerd.pid")); err != nil {
		t.Fatal(err)
	}
}

// checkNothingLeft checks at the end of the test, after what is still to be cleaned up, that no process
// of the instance's is left, nor a cgroup of the first version that its containers were in.
func (i *instance) checkNothingLeft(t *testing.T) {
	t.Helper()
	scratch := filepath.Dir(i.Cgroup())
	t.Cleanup(func() {
		await(t, "the last process ends", 5*time.Second, func() bool {
			procs, err := exec.Command("find", scratch, "-name", "cgroup.procs", "-exec", "cat", "{}", "+").Output()
			if err != nil {
				t.Fatal(err)
			}
			return len(procs) == 0
		})
		tops, err := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(scratch))
		if err != nil {
			t.Fatal(err)
		}
		for _, top := range tops {
			if top == scratch {
				continue // goes with the lab
			}
			for _, dir := range []string{filepath.Join(top, "docker"), top} {
				if err := os.Remove(dir); err != nil {
					t.Errorf("left behind by a container: %v", err)
				}
			}
		}
	})
}

// load makes an image of one program.
func (d docker) load(t *testing.T, program string) {
	t.Helper()
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: filepath.Base(program), Mode: 0o755, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d.run(t, &layer, "import", "-", filepath.Base(program))
}

// run calls the daemon's client and returns what it writes.
func (d docker) run(t *testing.T, stdin *bytes.Buffer, args ...string) string {
	t.Helper()
	cmd := exec.Command(d.client[0], append(d.client[1:len(d.client):len(d.client)], args...)...)
	if stdin != nil {
		cmd.Stdin = stdin
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%.1000s: %v\n%s", cmd, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// plainResult is what the client "plain" prints.
type plainResult struct {
	Status      int
	AccessKeyID string
	Error       string
}

// plain runs the client in a container and returns the container's id and what the client printed.
func (d docker) plain(t *testing.T, network string, args ...string) (id string, r plainResult) {
	t.Helper()
	id = d.run(t, nil, append([]string{"create", "--network=" + network, "plain", "/plain"}, args...)...)
	out := d.run(t, nil, "start", "--attach", id)
	d.run(t, nil, "rm", id)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("output of the container: %v: %q", err, out)
	}
	return id, r
}

// contained is a container whose only process calls all the time, as long as it lives.
type contained struct {
	id   string
	file string // where it tells of its calls: it does so whatever becomes of the daemon
}

// call starts such a container from the image of the client "caller". The flags are of docker create,
// the arguments are more than the client looks at.
func (d docker) call(t *testing.T, flags []string, args ...string) contained {
	t.Helper()
	dir := t.TempDir()
	c := contained{file: filepath.Join(dir, "calls")}
	create := append([]string{"create", "--network=host", "--stop-signal=KILL", "--volume=" + dir + ":/told"}, flags...)
	create = append(create, "caller", "/caller", "-to=/told/calls", "-every=50ms")
	c.id = d.run(t, nil, append(create, args...)...)
	d.run(t, nil, "start", c.id)
	t.Cleanup(func() { d.run(t, nil, "rm", "--force", c.id) })
	return c
}

// calls are those that have ended.
func (c contained) calls(t *testing.T) (made calls) {
	t.Helper()
	text, err := os.ReadFile(c.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var one call
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // it is being written
		}
		if err := json.Unmarshal(line, &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		made = append(made, one)
	}
	return made
}

// checkServed wants a container to make calls of both kinds, none of which has failed.
func (c contained) checkServed(t *testing.T) {
	t.Helper()
	var made calls
	await(t, "some calls by IMDSv1 and by IMDSv2", 10*time.Second, func() bool {
		made = c.calls(t)
		return len(made.kind("v1")) > 1 && len(made.kind("v2")) > 1
	})
	if failed := made.that(func(c call) bool { return c.Error != "" }); len(failed) > 0 {
		t.Errorf("failed: %s", failed)
	}
}

// inContainer tells the calls of a container's processes.
func inContainer(id string) func(record) bool {
	return func(r record) bool { return r.Caller.ContainerID == id }
}
