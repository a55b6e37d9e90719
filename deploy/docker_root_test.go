//go:build root

package deploy

import (
	"bytes"
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

	"github.com/imds-bridge/imds-bridge/lab"
)

// docker is a Docker of the test's own, in the network namespace of a lab's host. All that it keeps is
// in a directory of the test, its mounts are in a mount namespace.
type docker struct{ socket string }

func startDocker(t *testing.T, l *lab.Lab) docker {
	t.Helper()
	dir := tempDir(t)
	d := docker{filepath.Join(dir, "docker.sock")}
	cgroup := containersCgroup(t, l)
	config := filepath.Join(dir, "daemon.json") // instead of the machine's
	if err := os.WriteFile(config, fmt.Appendf(nil, `{"deprecated-key-path": %q}`, filepath.Join(dir, "key.json")), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	// dockerd and containerd have files in /run whatever they are told.
	daemon := exec.Command("sh", "-c", `mount -t tmpfs tmpfs /run && exec dockerd "$@"`, "dockerd",
		"--config-file="+config, "--host=unix://"+d.socket, "--data-root="+filepath.Join(dir, "data"),
		"--exec-root="+filepath.Join(dir, "exec"), "--pidfile="+filepath.Join(dir, "docker.pid"),
		"--cgroup-parent="+cgroup, "--exec-opt=native.cgroupdriver=cgroupfs", "--storage-driver=vfs", "--log-level=warn",
		"--bridge=none", "--iptables=false", "--ip-forward=false")
	daemon.Stdout, daemon.Stderr = &log, &log
	daemon.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := l.Host().StartOutside(daemon); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = daemon.Wait() // how it ended shows in its log
		close(ended)
	}()
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Error("dockerd does not stop")
			_ = daemon.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("dockerd:\n%s", &log)
		}
	})
	await(t, "dockerd", func() bool {
		select {
		case <-ended:
			t.Fatal("dockerd ended")
		default:
		}
		conn, err := net.Dial("unix", d.socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return d
}

// containersCgroup is the path, in each hierarchy, of a cgroup for containers, which is removed after the
// test. In the hierarchy of version 2 it lies in that of the lab, where a hook sees the containers, and
// goes with it.
func containersCgroup(t *testing.T, l *lab.Lab) string {
	t.Helper()
	scratch := filepath.Dir(l.Cgroup())
	name := filepath.Join("/", filepath.Base(scratch), filepath.Base(l.Cgroup()), "docker")
	t.Cleanup(func() {
		left, err := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(scratch))
		if err != nil {
			t.Fatal(err)
		}
		for _, top := range left {
			if top == scratch {
				continue
			}
			for dir := filepath.Join(filepath.Dir(top), name); dir != filepath.Dir(top); dir = filepath.Dir(dir) {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			}
		}
	})
	return name
}

// command is one of the docker client, which is to be that of the daemon: another one may come first
// in PATH, and lack the plugin that it builds with.
func (d docker) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/usr/bin/docker", append([]string{"--host=unix://" + d.socket}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
	return cmd
}

func (d docker) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := d.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
