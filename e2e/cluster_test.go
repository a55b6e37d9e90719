//go:build kubernetes

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container/containertest"
	"github.com/imds-bridge/imds-bridge/caller/container/kubernetes/clustertest"
)

// See make test-kubernetes.
var (
	servers = flag.String("servers", "", "the `directory` with kube-apiserver, kube-controller-manager and kubelet")
	keep    = flag.Bool("record", false, "keep what the API server answers")
)

type object = clustertest.Object

// node is the only one of a cluster.
const node = "node-1"

// cluster is etcd, kube-apiserver, kube-controller-manager, and a kubelet with containerd on the host of an
// instance. There is no scheduler: pods are made for the node.
type cluster struct {
	*clustertest.Cluster
	instance   *instance
	containerd *daemon
	manifests  string // directory of static pods
	told       string // directory in which pods have one each
}

func (i *instance) startCluster(t *testing.T) *cluster {
	t.Helper()
	const address = "10.0.0.1" // the first one for services is that of the API server
	if got := finish(t, i.Host().StartOutside, exec.Command("ip", "address", "add", address+"/32", "dev", "lo")); got.err != nil {
		t.Fatalf("%v: %s", got.err, got.stderr)
	}
	c := &cluster{instance: i, told: t.TempDir()}
	c.Cluster = clustertest.Start(t, clustertest.Options{
		Servers: *servers, Address: address + ":443", Start: i.Host().StartOutside, Dial: i.Host().DialContext,
	})
	// The controllers that make pods and what pods need, and the one that finds nodes fit for them.
	c.Run(filepath.Join(*servers, "kube-controller-manager"), "--kubeconfig", c.Kubeconfig(), "--leader-elect=false", "--root-ca-file", c.CAFile(),
		"--controllers", "deployment-controller,replicaset-controller,daemonset-controller,job-controller,cronjob-controller,"+
			"serviceaccount-controller,root-ca-certificate-publisher-controller,node-lifecycle-controller")
	cgroup := i.makeCgroups(t)
	c.startContainerd(t)
	c.startKubelet(t, cgroup)
	return c
}

// makeCgroups makes cgroups of the instance's own in each hierarchy of the first version, for the kubelet
// asks for them. In the end it ends all that runs in the lab, and removes them.
func (i *instance) makeCgroups(t *testing.T) (path string) {
	t.Helper()
	scratch := filepath.Dir(i.Cgroup())
	path = "/" + filepath.Base(scratch)
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*/release_agent") // of the first version alone
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range hierarchies {
		top := filepath.Dir(file) + path
		if err := os.Mkdir(top, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			await(t, top+" is removed", 10*time.Second, func() bool {
				return exec.Command("find", top, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run() == nil
			})
		})
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(scratch, "cgroup.kill"), []byte("1"), 0); err != nil {
			t.Error(err)
		}
	})
	return path
}

func (c *cluster) startContainerd(t *testing.T) {
	t.Helper()
	dir := socketDir(t, "containerd")
	socket := filepath.Join(dir, "socket")
	networks := filepath.Join(dir, "net.d")
	if err := os.Mkdir(networks, 0o700); err != nil {
		t.Fatal(err)
	}
	// IMDS answers to the lab's networks for containers, and these are some of them.
	if err := os.WriteFile(filepath.Join(networks, "pods.conflist"), []byte(`{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": {
"type": "host-local", "ranges": [[{"subnet": "172.30.253.0/24"}], [{"subnet": "fd6c:6162:1:fd::/64"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
address = "%[2]s"
[plugins."io.containerd.internal.v1.opt"]
path = "%[1]s/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "test.local/pause:1"
stream_server_address = "127.0.0.1"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "%[3]s"
`, dir, socket, networks), 0o600); err != nil {
		t.Fatal(err)
	}
	c.containerd = c.instance.newDaemon(t, "containerd", dir, socket, "containerd", "--config", config)
	c.containerd.start(t)
	for name, program := range map[string]string{"pause": pause(t), "caller": callerClient(t), "imds-bridge": binary(t)} {
		c.load(t, name, program)
	}
}

// load makes an image of one program, named as the program is.
func (c *cluster) load(t *testing.T, name, program string) {
	t.Helper()
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	layer := containertest.Archive(t, map[string][]byte{name: content})
	config, err := json.Marshal(object{
		"architecture": runtime.GOARCH, "os": "linux", "config": object{"Entrypoint": []string{"/" + name}},
		"rootfs": object{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal([]object{{"Config": "config.json", "RepoTags": []string{"test.local/" + name + ":1"}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	file := c.Write(name+".tar", containertest.Archive(t, map[string][]byte{"layer.tar": layer, "config.json": config, "manifest.json": manifest}))
	var said []byte
	await(t, "containerd takes an image", 30*time.Second, func() bool {
		said, err = exec.Command("ctr", "--address", c.containerd.socket, "--namespace", "k8s.io", "images", "import", file).CombinedOutput()
		return err == nil
	})
	t.Logf("%s", bytes.TrimSpace(said))
}

// startKubelet starts it in the mount namespace of containerd. A kubelet sets sysctls of the machine, so
// others lie over them there.
func (c *cluster) startKubelet(t *testing.T, cgroup string) {
	t.Helper()
	c.manifests = c.File("manifests")
	if err := os.Mkdir(c.manifests, 0o700); err != nil {
		t.Fatal(err)
	}
	settings := c.WriteJSON("kubelet.json", object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + c.containerd.socket, "staticPodPath": c.manifests, "fileCheckFrequency": "1s", "podLogsDir": c.File("pods"),
		"cgroupDriver": "cgroupfs", "cgroupRoot": cgroup, "failSwapOn": false, "resolvConf": "", "healthzPort": 0,
		"authentication": object{"anonymous": object{"enabled": false}, "webhook": object{"enabled": false}},
		"authorization":  object{"mode": "AlwaysAllow"}, "evictionHard": object{"memory.available": "1Mi"}, "localStorageCapacityIsolation": false,
	})
	var script strings.Builder
	for name, value := range map[string]string{"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"} {
		fmt.Fprintf(&script, "mount --bind %s /proc/sys/%s || exit 1\n", c.Write(filepath.Base(name), []byte(value+"\n")), name)
	}
	script.WriteString(`exec "$@"`)
	c.Run("nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", c.containerd.process.Process.Pid), "--", "sh", "-c", script.String(), "kubelet",
		filepath.Join(*servers, "kubelet"), "--config", settings, "--kubeconfig", c.Kubeconfig(), "--hostname-override", node,
		"--node-ip", c.instance.Host().Addr().String(), "--root-dir", c.File("kubelet"), "--cert-dir", c.File("kubelet-pki"))
	t.Cleanup(func() {
		for _, program := range []string{"kube-apiserver", "kube-controller-manager", "nsenter"} {
			if t.Failed() {
				t.Logf("%s:\n%s", program, c.Log(program))
			}
		}
	})
}

// template is of pods that call IMDS by v1, and tell of it in a directory of their own.
func (c *cluster) template(name, container string, labels, annotations map[string]string, more object) object {
	spec := object{
		"nodeName": node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
		"containers": []object{{
			"name": container, "image": "test.local/caller:1", "imagePullPolicy": "Never",
			"args":         []string{"-to=/told/calls", "-kind=v1", "-every=300ms"},
			"volumeMounts": []object{{"name": "told", "mountPath": "/told"}},
		}},
		"volumes": []object{{"name": "told", "hostPath": object{"path": filepath.Join(c.told, name), "type": "DirectoryOrCreate"}}},
	}
	for key, value := range more {
		spec[key] = value
	}
	return object{"metadata": object{"labels": labels, "annotations": annotations}, "spec": spec}
}

// callsOf are those of the pods of a template.
func (c *cluster) callsOf(t *testing.T, name string) calls {
	t.Helper()
	return contained{file: filepath.Join(c.told, name, "calls")}.calls(t)
}

// pods are those of a namespace, as the API server has them.
func (c *cluster) pods(t *testing.T, namespace string) (list struct {
	Items []struct {
		Metadata struct{ Name, UID string }
		Status   struct {
			Conditions        []struct{ Type, Status string }
			ContainerStatuses []struct{ ContainerID string }
		}
	}
}) {
	t.Helper()
	_, text := c.Do(http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods", nil)
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	return list
}
