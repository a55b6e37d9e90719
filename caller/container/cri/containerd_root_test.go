//go:build root

package cri

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/imds-bridge/imds-bridge/lab"
)

// containerd is a real one, with an image that holds testdata/sleep and nothing else. It runs in a lab,
// whose network leads nowhere, and in a mount namespace of its own. The test is its kubelet.
type containerd struct {
	t       *testing.T
	lab     *lab.Lab
	dir     string
	socket  string
	running *exec.Cmd
	exited  chan error
	log     bytes.Buffer
	kubelet *client
}

const image1 = "registry.test/shop/sleep:1"

const configuration = `
version = 2
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
address = "%[2]s"
[plugins."io.containerd.internal.v1.opt"]
path = "%[1]s/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "` + image1 + `"
stream_server_address = "127.0.0.1"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "%[1]s"
conf_dir = "%[1]s/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
`

const private = `for d in /run /var/lib /var/tmp; do mount -t tmpfs tmpfs $d || exit 1; done; exec "$@"`

func startContainerd(t *testing.T) *containerd {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "cri") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	d := &containerd{t: t, lab: l, dir: dir, socket: filepath.Join(dir, "socket")}
	t.Cleanup(func() {
		if d.running != nil {
			d.stop()
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		removeFirstVersion(t, d.cgroup())
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), fmt.Appendf(nil, configuration, dir, d.socket), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	d.load()
	if d.kubelet, err = d.source().dial(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.removeAll()
		d.kubelet.close()
	})
	return d
}

func (d *containerd) cgroup() string { return filepath.Base(filepath.Dir(d.lab.Cgroup())) }

// source is one that has patience with a busy machine, and leaves the most to the events.
func (d *containerd) source() *Source {
	return newSource(slog.New(slog.DiscardHandler), d.socket, pace{patience: 20 * time.Second, pulse: time.Minute, soon: time.Second, lists: time.Minute})
}

// start starts containerd, and waits until CRI is there.
func (d *containerd) start() {
	d.t.Helper()
	d.running = exec.Command("sh", "-c", private, "private", "containerd", "--config", filepath.Join(d.dir, "config.toml"), "--log-level", "info")
	d.log.Reset()
	d.running.Stdout, d.running.Stderr = &d.log, &d.log
	d.running.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := d.lab.Host().Start(d.running); err != nil {
		d.t.Fatal(err)
	}
	d.exited = make(chan error, 1)
	go func() { d.exited <- d.running.Wait() }()
	c, err := d.source().dial()
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.close()
	var last error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if last = c.greet(d.t.Context()); last == nil {
			return
		}
	}
	d.t.Fatalf("containerd does not answer: %v\n%s", last, &d.log)
}

// stop stops it. What it does not end goes with the lab.
func (d *containerd) stop() {
	d.t.Helper()
	_ = d.running.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.exited:
	case <-time.After(20 * time.Second):
		d.t.Error("containerd does not end")
		_ = d.running.Process.Kill()
		<-d.exited
	}
	d.running = nil
	if d.t.Failed() {
		d.t.Logf("containerd:\n%s", &d.log)
	}
}

// load makes the image, and waits until CRI has it.
func (d *containerd) load() {
	d.t.Helper()
	file := filepath.Join(d.dir, "image.tar")
	if err := os.WriteFile(file, d.archive(), 0o600); err != nil {
		d.t.Fatal(err)
	}
	load := exec.Command("ctr", "--address", d.socket, "--namespace", "k8s.io", "images", "import",
		"--snapshotter", "native", "--digests", "--base-name", "registry.test/shop/sleep", file)
	if out, err := load.CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s\n%s", load, err, out, &d.log)
	}
	c, err := d.source().dial()
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.close()
	await(d.t, "CRI has the image", func() bool {
		i, err := c.imageService.ImageStatus(d.t.Context(), &criapi.ImageStatusRequest{Image: &criapi.ImageSpec{Image: image1}})
		return err == nil && i.Image != nil && len(i.Image.RepoDigests) > 0
	})
}

// archive is the image as docker save writes it.
func (d *containerd) archive() []byte {
	d.t.Helper()
	program := filepath.Join(d.dir, "sleep")
	build := exec.Command("go", "build", "-o", program, "./testdata/sleep")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		d.t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(program)
	if err != nil {
		d.t.Fatal(err)
	}
	layer := archived(d.t, map[string][]byte{"sleep": text})
	config := inJSON(d.t, map[string]any{
		"architecture": goruntime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/sleep"}, "Cmd": []string{"1h"},
			"Labels": map[string]string{podUID: "of-the-image"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	manifest := inJSON(d.t, []map[string]any{{"Config": "config.json", "RepoTags": []string{image1}, "Layers": []string{"layer.tar"}}})
	return archived(d.t, map[string][]byte{"layer.tar": layer, "config.json": config, "manifest.json": manifest})
}

func archived(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func inJSON(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// pod is what the kubelet asks for: here with the host's network, which is the lab's.
type pod struct {
	id     string
	config *criapi.PodSandboxConfig
}

// do has something done.
func do[Q, A any](t *testing.T, ask func(context.Context, *Q, ...grpc.CallOption) (*A, error), question *Q) *A {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer, err := ask(ctx, question)
	if err != nil {
		t.Fatalf("%T: %v", question, err)
	}
	return answer
}

func (d *containerd) runPod(t *testing.T, name, namespace, uid string, labels, annotations map[string]string) *pod {
	t.Helper()
	all := map[string]string{podName: name, podNamespace: namespace, podUID: uid}
	for key, value := range labels {
		all[key] = value
	}
	p := &pod{config: &criapi.PodSandboxConfig{
		Metadata: &criapi.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: uid},
		Labels:   all, Annotations: annotations, LogDirectory: filepath.Join(d.dir, "log"),
		Linux: &criapi.LinuxPodSandboxConfig{
			CgroupParent: "/" + d.cgroup() + "/kubepods/pod" + uid,
			SecurityContext: &criapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &criapi.NamespaceOption{Network: criapi.NamespaceMode_NODE},
			},
		},
	}}
	p.id = do(t, d.kubelet.runtimeService.RunPodSandbox, &criapi.RunPodSandboxRequest{Config: p.config}).PodSandboxId
	return p
}

// run runs a container that lives for a while.
func (d *containerd) run(t *testing.T, p *pod, name, lives string) (id string) {
	t.Helper()
	id = do(t, d.kubelet.runtimeService.CreateContainer, &criapi.CreateContainerRequest{
		PodSandboxId: p.id, SandboxConfig: p.config,
		Config: &criapi.ContainerConfig{
			Metadata: &criapi.ContainerMetadata{Name: name},
			Image:    &criapi.ImageSpec{Image: d.imageID(t)}, // as the kubelet names it
			Command:  []string{"/sleep", lives},
			Labels: map[string]string{containerName: name, podName: p.config.Metadata.Name,
				podNamespace: p.config.Metadata.Namespace, podUID: p.config.Metadata.Uid},
			Linux: &criapi.LinuxContainerConfig{SecurityContext: &criapi.LinuxContainerSecurityContext{
				NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions,
			}},
		},
	}).ContainerId
	do(t, d.kubelet.runtimeService.StartContainer, &criapi.StartContainerRequest{ContainerId: id})
	return id
}

func (d *containerd) imageID(t *testing.T) string {
	t.Helper()
	return do(t, d.kubelet.imageService.ImageStatus, &criapi.ImageStatusRequest{Image: &criapi.ImageSpec{Image: image1}}).Image.Id
}

func (d *containerd) remove(t *testing.T, id string) {
	t.Helper()
	do(t, d.kubelet.runtimeService.RemoveContainer, &criapi.RemoveContainerRequest{ContainerId: id})
}

// removeAll ends the pods, so that no shim outlives the test.
func (d *containerd) removeAll() {
	if d.running == nil {
		return
	}
	for _, p := range do(d.t, d.kubelet.runtimeService.ListPodSandbox, &criapi.ListPodSandboxRequest{}).Items {
		do(d.t, d.kubelet.runtimeService.StopPodSandbox, &criapi.StopPodSandboxRequest{PodSandboxId: p.Id})
		do(d.t, d.kubelet.runtimeService.RemovePodSandbox, &criapi.RemovePodSandboxRequest{PodSandboxId: p.Id})
	}
}

// removeFirstVersion removes the cgroups of the first version that runc leaves behind on hosts that
// have it.
func removeFirstVersion(t *testing.T, cgroup string) {
	t.Helper()
	tops, err := filepath.Glob("/sys/fs/cgroup/*/" + cgroup)
	if err != nil {
		t.Fatal(err)
	}
	for _, top := range tops {
		await(t, top+" is removed", func() bool {
			var dirs []string
			_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					dirs = append(dirs, path)
				}
				return err
			})
			for _, dir := range slices.Backward(dirs) {
				err = os.Remove(dir)
			}
			return err == nil
		})
	}
}

// signal reaches containerd itself, which the shell has become.
func (d *containerd) signal(s syscall.Signal) error { return d.running.Process.Signal(s) }
