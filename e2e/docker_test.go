package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var plain = built("plain", ".", "./clients/plain")

// docker is a Docker daemon of a test's own on the host of an instance, with an image that holds the
// client "plain" and nothing else. All that it keeps lies in a directory of the test, its mounts in a
// mount namespace, its containers in the instance's scratch cgroup.
type docker struct {
	socket string
	// cgroup holds containers and all else of the instance. A container's cgroup must not lie below
	// one that holds processes, such as lab.Cgroup: a kernel with cgroup2 alone refuses that.
	cgroup string
}

func (i *instance) startDocker(t *testing.T) docker {
	t.Helper()
	i.checkNothingLeft(t)
	dir, err := os.MkdirTemp(scratch, "docker") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	d := docker{socket: filepath.Join(dir, "socket"), cgroup: filepath.Dir(i.Cgroup())}
	config := filepath.Join(dir, "daemon.json") // rather than the machine's; the key would be written to /etc
	if err := os.WriteFile(config, fmt.Appendf(nil, `{"deprecated-key-path": %q}`, filepath.Join(dir, "key.json")), 0o600); err != nil {
		t.Fatal(err)
	}
	i.runDaemon(t, "--config-file="+config, "--host=unix://"+d.socket, "--pidfile="+filepath.Join(dir, "pid"),
		"--data-root="+filepath.Join(dir, "data"), "--exec-root="+filepath.Join(dir, "exec"), "--storage-driver=vfs",
		"--exec-opt=native.cgroupdriver=cgroupfs", "--cgroup-parent=/"+filepath.Base(d.cgroup)+"/docker",
		// IMDS answers to the lab's networks for containers, and this is one. So nothing need be masqueraded.
		"--bip=172.30.255.1/24", "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false",
		"--userland-proxy=false", "--log-level=warn")
	await(t, "dockerd", 20*time.Second, func() bool {
		conn, err := net.Dial("unix", d.socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	d.load(t, plain(t))
	return d
}

// runDaemon runs dockerd till the end of the test. It has /run to itself, where it and containerd have
// files whatever they are told.
func (i *instance) runDaemon(t *testing.T, args ...string) {
	t.Helper()
	daemon := exec.Command("sh", append([]string{"-c", `mount -t tmpfs tmpfs /run && exec dockerd "$@"`, "dockerd"}, args...)...)
	var log bytes.Buffer
	daemon.Stdout, daemon.Stderr = &log, &log
	daemon.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := i.Host().Start(daemon); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- daemon.Wait() }()
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		var err error
		select {
		case err = <-exited:
		case <-time.After(20 * time.Second):
			_ = daemon.Process.Kill()
			err = <-exited
		}
		if err != nil {
			t.Errorf("dockerd: %v", err)
		}
		if t.Failed() {
			t.Logf("dockerd:\n%s", &log)
		}
	})
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

// run calls the docker client and returns what it writes.
func (d docker) run(t *testing.T, stdin *bytes.Buffer, args ...string) string {
	t.Helper()
	cmd := exec.Command("docker", append([]string{"--host=unix://" + d.socket}, args...)...)
	if stdin != nil {
		cmd.Stdin = stdin
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, &stderr)
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

// inContainer tells the calls of a container's processes.
func inContainer(id string) func(record) bool {
	return func(r record) bool { return r.Caller.ContainerID == id }
}
