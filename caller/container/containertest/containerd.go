package containertest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
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
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/imds-bridge/imds-bridge/lab"
)

// Containerd is a real one, with an image that holds some programs and nothing else. It runs on the host of
// a lab, and in a mount namespace of its own. The test is its kubelet.
type Containerd struct {
	Socket string

	t       *testing.T
	lab     *lab.Lab
	dir     string
	running *exec.Cmd
	exited  chan struct{}
	log     bytes.Buffer
	conn    *grpc.ClientConn
	runtime criapi.RuntimeServiceClient
	images  criapi.ImageServiceClient
}

// repository and image are of the programs.
const (
	repository = "registry.test/shop/programs"
	image      = repository + ":1"
)

const configuration = `
version = 2
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
address = "%[2]s"
[plugins."io.containerd.internal.v1.opt"]
path = "%[1]s/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "` + image + `"
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

// StartContainerd starts one till the end of the test. The programs are static; the first, which is given
// the argument 1h, holds the pods.
func StartContainerd(t *testing.T, l *lab.Lab, programs ...string) *Containerd {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	d := &Containerd{t: t, lab: l, dir: dir, Socket: filepath.Join(dir, "socket")}
	t.Cleanup(func() {
		if d.running != nil {
			d.Stop()
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), fmt.Appendf(nil, configuration, dir, d.Socket), 0o600); err != nil {
		t.Fatal(err)
	}
	soon := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1, MaxDelay: 100 * time.Millisecond}}
	if d.conn, err = grpc.NewClient("unix://"+d.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(soon)); err != nil {
		t.Fatal(err)
	}
	d.runtime, d.images = criapi.NewRuntimeServiceClient(d.conn), criapi.NewImageServiceClient(d.conn)
	t.Cleanup(func() { d.conn.Close() })
	d.Start()
	t.Cleanup(d.removeAll)
	d.load(programs)
	return d
}

// cgroup is that of the lab.
func (d *Containerd) cgroup() string { return filepath.Base(filepath.Dir(d.lab.Cgroup())) }

// Start starts containerd, and waits until CRI is there.
func (d *Containerd) Start() {
	d.t.Helper()
	d.running = exec.Command("sh", "-c", private, "private", "containerd", "--config", filepath.Join(d.dir, "config.toml"), "--log-level", "info")
	d.log.Reset()
	d.running.Stdout, d.running.Stderr = &d.log, &d.log
	d.running.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := d.lab.Host().Start(d.running); err != nil {
		d.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func(p *exec.Cmd) {
		_ = p.Wait() // its last words are in the log
		close(exited)
	}(d.running)
	d.exited = exited
	var last error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if _, last = d.runtime.Version(d.t.Context(), &criapi.VersionRequest{}); last == nil {
			return
		}
	}
	d.t.Fatalf("containerd does not answer: %v\n%s", last, &d.log)
}

// Stop stops it. What it does not end goes with the lab.
func (d *Containerd) Stop() {
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
func (d *Containerd) load(programs []string) {
	d.t.Helper()
	file := filepath.Join(d.dir, "image.tar")
	if err := os.WriteFile(file, d.archive(programs), 0o600); err != nil {
		d.t.Fatal(err)
	}
	load := exec.Command("ctr", "--address", d.Socket, "--namespace", "k8s.io", "images", "import",
		"--snapshotter", "native", "--digests", "--base-name", repository, file)
	if out, err := load.CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s\n%s", load, err, out, &d.log)
	}
	await(d.t, "CRI has the image", func() bool {
		i, err := d.images.ImageStatus(d.t.Context(), &criapi.ImageStatusRequest{Image: &criapi.ImageSpec{Image: image}})
		return err == nil && i.Image != nil && len(i.Image.RepoDigests) > 0
	})
}

// archive is the image as docker save writes it.
func (d *Containerd) archive(programs []string) []byte {
	d.t.Helper()
	files := make(map[string][]byte)
	for _, program := range programs {
		text, err := os.ReadFile(program)
		if err != nil {
			d.t.Fatal(err)
		}
		files[filepath.Base(program)] = text
	}
	layer := Archive(d.t, files)
	config := inJSON(d.t, map[string]any{
		"architecture": goruntime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/" + filepath.Base(programs[0])}, "Cmd": []string{"1h"},
			"Labels": map[string]string{podUID: "of-the-image"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	manifest := inJSON(d.t, []map[string]any{{"Config": "config.json", "RepoTags": []string{image}, "Layers": []string{"layer.tar"}}})
	return Archive(d.t, map[string][]byte{"layer.tar": layer, "config.json": config, "manifest.json": manifest})
}

// Archive is a tar file of programs, by their names.
func Archive(t *testing.T, files map[string][]byte) []byte {
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

// Pod is what the kubelet asks for: here with the host's network, which is the lab's.
type Pod struct {
	ID     string
	Config *criapi.PodSandboxConfig
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

// The labels that the kubelet gives its containers.
const (
	podName       = "io.kubernetes.pod.name"
	podNamespace  = "io.kubernetes.pod.namespace"
	podUID        = "io.kubernetes.pod.uid"
	containerName = "io.kubernetes.container.name"
)

// RunPod runs a pod, with nothing in it yet.
func (d *Containerd) RunPod(t *testing.T, name, namespace, uid string, labels, annotations map[string]string) *Pod {
	t.Helper()
	all := map[string]string{podName: name, podNamespace: namespace, podUID: uid}
	maps.Copy(all, labels)
	p := &Pod{Config: &criapi.PodSandboxConfig{
		Metadata: &criapi.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: uid},
		Labels:   all, Annotations: annotations, LogDirectory: filepath.Join(d.dir, "log"),
		Linux: &criapi.LinuxPodSandboxConfig{
			CgroupParent: "/" + d.cgroup() + "/kubepods/pod" + uid,
			SecurityContext: &criapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &criapi.NamespaceOption{Network: criapi.NamespaceMode_NODE, Pid: criapi.NamespaceMode_CONTAINER},
			},
		},
	}}
	p.ID = do(t, d.runtime.RunPodSandbox, &criapi.RunPodSandboxRequest{Config: p.Config}).PodSandboxId
	return p
}

// Run runs a container in a pod.
func (d *Containerd) Run(t *testing.T, p *Pod, name string, command []string, mounts ...*criapi.Mount) (id string) {
	t.Helper()
	id = do(t, d.runtime.CreateContainer, &criapi.CreateContainerRequest{
		PodSandboxId: p.ID, SandboxConfig: p.Config,
		Config: &criapi.ContainerConfig{
			Metadata: &criapi.ContainerMetadata{Name: name},
			Image:    &criapi.ImageSpec{Image: d.imageID(t)}, // as the kubelet names it
			Command:  command, Mounts: mounts,
			Labels: map[string]string{containerName: name, podName: p.Config.Metadata.Name,
				podNamespace: p.Config.Metadata.Namespace, podUID: p.Config.Metadata.Uid},
			Linux: &criapi.LinuxContainerConfig{SecurityContext: &criapi.LinuxContainerSecurityContext{
				NamespaceOptions: p.Config.Linux.SecurityContext.NamespaceOptions,
			}},
		},
	}).ContainerId
	do(t, d.runtime.StartContainer, &criapi.StartContainerRequest{ContainerId: id})
	return id
}

func (d *Containerd) imageID(t *testing.T) string {
	t.Helper()
	return do(t, d.images.ImageStatus, &criapi.ImageStatusRequest{Image: &criapi.ImageSpec{Image: image}}).Image.Id
}

// Remove removes a container.
func (d *Containerd) Remove(t *testing.T, id string) {
	t.Helper()
	do(t, d.runtime.RemoveContainer, &criapi.RemoveContainerRequest{ContainerId: id})
}

// removeAll ends the pods, so that no shim outlives the test.
func (d *Containerd) removeAll() {
	if d.running == nil {
		return
	}
	for _, p := range do(d.t, d.runtime.ListPodSandbox, &criapi.ListPodSandboxRequest{}).Items {
		do(d.t, d.runtime.StopPodSandbox, &criapi.StopPodSandboxRequest{PodSandboxId: p.Id})
		do(d.t, d.runtime.RemovePodSandbox, &criapi.RemovePodSandboxRequest{PodSandboxId: p.Id})
	}
}

// Signal reaches containerd itself, which the shell has become.
func (d *Containerd) Signal(s syscall.Signal) error { return d.running.Process.Signal(s) }

// RemoveFirstVersion removes the cgroups of the first version that runc leaves behind for a lab on hosts
// that have it.
func RemoveFirstVersion(t *testing.T, l *lab.Lab) {
	t.Helper()
	tops, err := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(filepath.Dir(l.Cgroup())))
	if err != nil {
		t.Fatal(err)
	}
	for _, top := range tops {
		if top == filepath.Dir(l.Cgroup()) {
			continue // of the second version: it goes with the lab
		}
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

// await polls for a condition.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}
