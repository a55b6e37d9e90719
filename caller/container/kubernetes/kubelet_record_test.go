//go:build record

package kubernetes

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
)

// TestKubelet has a real kubelet run pods on the host's network with containerd, and looks each of their
// processes up by its cgroup, as the bridge does. It records the list of these pods. It needs what TestRecord
// needs, root, containerd, runc, and in $KUBELET the path of a kubelet. All that it starts ends with its
// process namespace, and the sysctls that a kubelet sets are those of its mount namespace:
//
//	KUBE_APISERVER=… KUBELET=… unshare --net --mount --pid --fork --mount-proc sh -c 'ip link set lo up &&
//	  ip addr add 10.99.0.1/32 dev lo && go test -tags record -run TestKubelet -v ./caller/container/kubernetes'
func TestKubelet(t *testing.T) {
	hideSysctls(t)
	removeCgroups(t)
	c := startCluster(t)
	c.prepare()
	c.do(http.MethodDelete, "/api/v1/nodes/node-1", nil) // the kubelet makes its own
	unmountBelow(t, c.dir)
	manifests := c.startKubelet()
	c.do(http.MethodPost, "/api/v1/namespaces/kube-system/serviceaccounts", object{"metadata": object{"name": "default"}})
	set := c.make(apps+"daemonsets", object{"metadata": object{"name": "agent"}, "spec": object{"selector": selector, "template": template("agent")}})
	spec := object{
		"nodeName": "node-1", "hostNetwork": true, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
		"containers": []object{{"name": "main", "image": "test.local/wait:1", "imagePullPolicy": "Never"}},
	}
	c.make(core+"pods", object{"metadata": object{"name": "agent-1", "ownerReferences": ownedBy("apps/v1", "DaemonSet", set)}, "spec": spec})
	c.make(core+"pods", object{"metadata": object{"name": "lonely"}, "spec": spec})
	static, err := json.Marshal(object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": "static", "namespace": "kube-system"}, "spec": spec})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(manifests, "static.json"), static, 0o600); err != nil {
		t.Fatal(err)
	}

	s := c.source("imds-bridge", io.Discard)
	d := container.Open(slog.New(slog.DiscardHandler), s)
	defer d.Close()
	l, _ := watched(t, s)
	for pod, workload := range map[string]string{"agent-1": "DaemonSet agent", "lonely": " ", "static-node-1": "Node node-1"} {
		var found *container.Container
		l.awaitFor(t, 3*time.Minute, pod+" runs", func() bool { found = l.inPod(pod)["main"]; return found != nil })
		cgroup := cgroupOf(t, found.ID)
		place := caller.ParseCgroup(cgroup)
		t.Logf("%s: %s, image %+v", pod, place.Path, found.Image)
		if place.ContainerID != found.ID || place.Place.PodUID == "" {
			t.Errorf("%s: %+v", pod, place)
		}
		for _, id := range []string{found.ID, ""} {
			got := d.Get(id, place.Place.PodUID)
			if got == nil || got.Pod.Name != pod || got.Pod.Workload.Kind+" "+got.Pod.Workload.Name != workload || !got.Pod.HostNetwork {
				t.Errorf("%s by %q: %+v", pod, id, got)
			}
		}
	}
	r := &recorder{t: t, client: connected(t, s)}
	r.save("list-kubelet.json", r.get(http.StatusOK, podsPath, s.podsQuery("0"), "application/json"))
	c.do(http.MethodDelete, core+"pods/lonely", nil)
	l.awaitFor(t, 2*time.Minute, "lonely is gone", func() bool { return l.inPod("lonely")["main"] == nil })
	c.do(http.MethodDelete, core+"pods/agent-1", nil)
	if err := os.Remove(filepath.Join(manifests, "static.json")); err != nil {
		t.Fatal(err)
	}
	l.awaitFor(t, 2*time.Minute, "all are gone", func() bool { return len(l.inPod("agent-1"))+len(l.inPod("static-node-1")) == 0 })
}

// hideSysctls puts files over the ones that a kubelet sets, with what it wants there.
func hideSysctls(t *testing.T) {
	t.Helper()
	if addresses, err := net.InterfaceAddrs(); err != nil || !strings.Contains(fmt.Sprint(addresses), "10.99.0.1/32") {
		t.Fatalf("run it in namespaces of its own, as its comment says: %v, %v", addresses, err)
	}
	for name, value := range map[string]string{"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"} {
		file := filepath.Join(t.TempDir(), "value")
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("/proc/sys", name)
		if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(path, 0) })
	}
}

// removeCgroups removes those of the kubelet in the end. They are the machine's.
func removeCgroups(t *testing.T) {
	t.Helper()
	if there, _ := filepath.Glob("/sys/fs/cgroup/*/kubepods"); len(there) > 0 {
		t.Fatalf("%s are there: does the machine run Kubernetes?", there)
	}
	t.Cleanup(func() {
		roots, _ := filepath.Glob("/sys/fs/cgroup/*/kubepods")
		for _, root := range append(roots, "/sys/fs/cgroup/kubepods") {
			var directories []string
			_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					directories = append(directories, path)
				}
				return nil
			})
			for _, directory := range slices.Backward(directories) {
				_ = unix.Rmdir(directory)
			}
		}
		if left, _ := filepath.Glob("/sys/fs/cgroup/*/kubepods"); len(left) > 0 {
			t.Errorf("%s are left", left)
		}
	})
}

// unmountBelow unmounts in the end what kubelet and containerd have mounted.
func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() {
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(mounts)) {
			if path := strings.Fields(line)[1]; strings.HasPrefix(path, dir) {
				_ = unix.Unmount(path, unix.MNT_DETACH)
			}
		}
	})
}

// cgroupOf returns what a process of a container has in /proc/<pid>/cgroup.
func cgroupOf(t *testing.T, id string) string {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), id) {
			return string(text)
		}
	}
	t.Fatalf("no process is in %s", id)
	return ""
}

// startKubelet starts containerd and a kubelet, and returns the directory of static pods.
func (c *cluster) startKubelet() (manifests string) {
	c.t.Helper()
	socket := c.file("containerd.sock")
	config := c.write("containerd.toml", fmt.Appendf(nil, `version = 2
root = %q
state = %q
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "test.local/wait:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
`, c.file("containerd"), c.file("containerd-state"), socket))
	c.run("containerd", "--config", config)
	image := c.write("image.tar", waitImage(c.t))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(500 * time.Millisecond) {
		said, err := exec.Command("ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", image).CombinedOutput()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%v: %s", err, said)
		}
	}
	manifests = c.file("manifests")
	if err := os.Mkdir(manifests, 0o700); err != nil {
		c.t.Fatal(err)
	}
	kubeconfig := c.write("kubeconfig", fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Config","current-context":"x",
"clusters":[{"name":"x","cluster":{"server":%q,"certificate-authority":%q}}],
"users":[{"name":"x","user":{"token":"admin"}}],"contexts":[{"name":"x","context":{"cluster":"x","user":"x"}}]}`, c.server, c.file("tls.crt")))
	settings := c.write("kubelet.yaml", fmt.Appendf(nil, `{"apiVersion":"kubelet.config.k8s.io/v1beta1","kind":"KubeletConfiguration",
"containerRuntimeEndpoint":"unix://%s","staticPodPath":%q,"failSwapOn":false,"cgroupDriver":"cgroupfs","cgroupRoot":"/","resolvConf":"",
"authentication":{"anonymous":{"enabled":false},"webhook":{"enabled":false}},
"authorization":{"mode":"AlwaysAllow"},"fileCheckFrequency":"1s","evictionHard":{"memory.available":"1Mi"},"healthzPort":0,"localStorageCapacityIsolation":false}`, socket, manifests))
	c.run(os.Getenv("KUBELET"), "--config", settings, "--kubeconfig", kubeconfig, "--hostname-override", "node-1",
		"--node-ip", "10.99.0.1", "--root-dir", c.file("kubelet"), "--cert-dir", c.file("kubelet-pki"))
	return manifests
}

// waitImage is an image, as Docker saves it, of a program that waits.
func waitImage(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "wait.go")
	if err := os.WriteFile(source, []byte("package main\n\nimport \"time\"\n\nfunc main() { time.Sleep(time.Hour) }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "wait"), source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	program, err := os.ReadFile(filepath.Join(dir, "wait"))
	if err != nil {
		t.Fatal(err)
	}
	layer := archive(t, map[string][]byte{"wait": program})
	config, err := json.Marshal(object{
		"architecture": "amd64", "os": "linux", "config": object{"Entrypoint": []string{"/wait"}},
		"rootfs": object{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal([]object{{"Config": "config.json", "RepoTags": []string{"test.local/wait:1"}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	return archive(t, map[string][]byte{"manifest.json": manifest, "config.json": config, "layer.tar": layer})
}

func archive(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
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
	return b.Bytes()
}
