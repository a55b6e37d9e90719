//go:build kubernetes

package e2e

import (
	"bytes"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

const (
	bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
	coreOf   = "/api/v1/namespaces/"
	appsOf   = "/apis/apps/v1/namespaces/"
	batchOf  = "/apis/batch/v1/namespaces/"
)

// Pods that real controllers make and a real kubelet runs are told by what the API server says to the
// account of our DaemonSet. While that is down or denied, by what the kubelet tells containerd.
func TestAttributionNamesPodsOfACluster(t *testing.T) {
	i := newInstance(t, simulator.Options{})
	c := i.startCluster(t)
	manifest := c.applyOurs(t)
	pods := c.makeShop(t)

	account := c.account(t)
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil {
		t.Fatal(err)
	}
	b := i.startBridge(t, bridgeOptions{
		cgroup: filepath.Dir(i.Cgroup()), account: filepath.Dir(account), env: []string{"KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + port},
		flags: []string{"--log.level=info", "--attribution.node=" + node, "--attribution.cri=" + c.containerd.socket, "--attribution.docker=", "--attribution.ecs=off"},
	})
	for name, want := range pods {
		line := b.awaitPod(t, name, func(a attributed) bool { return want.is(a, a.pod(t)) })
		c.checkPod(t, line)
	}

	// The API server goes, and comes back without our role and with a token that has expired.
	c.Do(http.MethodDelete, bindings+"/imds-bridge", nil)
	c.StopServer()
	b.awaitWarning(t, "kubernetes", "containers are not watched", "refuses connections")
	static := wanted{container: "late", owner: "platform", from: "pod.label:team", hostNetwork: true}
	c.runStatic(t, static)
	b.awaitPod(t, "a pod that the kubelet alone knows", func(a attributed) bool {
		p := a.pod(t)
		return static.is(a, p) && p.Name == "static-"+node && p.Namespace == "shop" && p.UID != ""
	})
	c.StartServer()
	b.awaitWarning(t, "needs list and watch on pods in the ClusterRole of deploy/kubernetes")
	good := c.Token("imds-bridge", "imds-bridge")
	c.Write("account/token", []byte(c.Expired(good)))
	b.awaitWarning(t, "does not know the token in /var/run/secrets/kubernetes.io/serviceaccount/token")
	now := len(b.log())
	for name, want := range pods {
		b.awaitPodAfter(t, now, name+", still known", func(a attributed) bool { return want.is(a, a.pod(t)) })
	}

	c.Write("account/token", []byte(good))
	c.create(t, manifest, "ClusterRoleBinding")
	static.kind, static.workload = "Node", node
	b.awaitPod(t, "the pod that the kubelet alone knew", func(a attributed) bool { return static.is(a, a.pod(t)) })
	pods["static"] = static
	if *keep {
		c.record(t)
	}
	for name := range pods {
		made := c.callsOf(t, name)
		t.Logf("%s: %d calls", name, len(made))
		if failed := made.that(func(one call) bool { return one.Status != http.StatusOK }); len(made) < 10 || len(failed) > 0 {
			t.Errorf("%s: %d calls, failed: %s", name, len(made), failed)
		}
	}
	b.stop(t)
	c.checkDaemonSet(t, manifest, pods["agent"])
}

// record keeps the list of pods as the bridge gets it, for the tests of caller/container/kubernetes.
func (c *cluster) record(t *testing.T) {
	t.Helper()
	_, text := c.Do(http.MethodGet, "/api/v1/pods?fieldSelector=spec.nodeName%3D"+node+"&resourceVersion=0", nil)
	if err := os.WriteFile(recordings+"list-kubelet.json", bytes.ReplaceAll(text, []byte(c.told), []byte("/told")), 0o644); err != nil {
		t.Fatal(err)
	}
}

// wanted is what a log line is to say of a pod and its caller.
type wanted struct {
	kind, workload, container, account, owner, from string
	hostNetwork                                     bool
}

func (w wanted) is(a attributed, p toldPod) bool {
	return p.WorkloadKind == w.kind && p.Workload == w.workload && p.Container == w.container && p.ServiceAccount == w.account &&
		(p.Node == node || w.account == "") && a.Caller.Owner.Name == w.owner && a.Caller.Owner.From == w.from && a.record.Caller.HostNetwork == w.hostNetwork
}

// makeShop has controllers make pods of all kinds, and says what is to be told of them.
func (c *cluster) makeShop(t *testing.T) map[string]wanted {
	t.Helper()
	c.Do(http.MethodPost, "/api/v1/namespaces", object{"metadata": object{"name": "shop"}})
	c.Do(http.MethodPost, coreOf+"shop/serviceaccounts", object{"metadata": object{"name": "web"}})
	pods := map[string]wanted{
		"web":      {"Deployment", "web", "app", "web", "checkout", "pod.label:team", false},
		"agent":    {"DaemonSet", "agent", "main", "default", "observability", "pod.annotation:team", true},
		"resolver": {"DaemonSet", "resolver", "main", "default", "resolver", "pod.workload", true},
		"report":   {"CronJob", "report", "job", "default", "report", "pod.workload", false},
	}
	labels := func(name string) map[string]string { return map[string]string{"run": name} }
	workload := func(name string, more map[string]string, annotations map[string]string, spec object) object {
		all := labels(name)
		maps.Copy(all, more)
		return object{"metadata": object{"name": name}, "spec": object{
			"selector": object{"matchLabels": labels(name)}, "template": c.template(name, pods[name].container, all, annotations, spec),
		}}
	}
	c.Do(http.MethodPost, appsOf+"shop/deployments", workload("web", map[string]string{"team": "checkout"}, nil, object{"serviceAccountName": "web"}))
	c.Do(http.MethodPost, appsOf+"shop/daemonsets", workload("agent", nil, map[string]string{"team": "observability"}, object{"hostNetwork": true}))
	c.Do(http.MethodPost, appsOf+"shop/daemonsets", workload("resolver", nil, nil, object{"hostNetwork": true}))
	// As `kubectl create job --from=cronjob/report` makes one.
	job := object{"template": c.template("report", "job", nil, nil, object{"restartPolicy": "Never"})}
	cron, _ := c.Do(http.MethodPost, batchOf+"shop/cronjobs", object{"metadata": object{"name": "report"},
		"spec": object{"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": object{"spec": job}}})
	c.Do(http.MethodPost, batchOf+"shop/jobs", object{
		"metadata": object{"name": "report-manual", "ownerReferences": []object{
			{"apiVersion": "batch/v1", "kind": "CronJob", "name": cron.Name, "uid": cron.UID, "controller": true}}},
		"spec": job,
	})
	return pods
}

// runStatic has the kubelet run a pod of a file, and tell nobody while there is no API server.
func (c *cluster) runStatic(t *testing.T, want wanted) {
	t.Helper()
	pod := c.template("static", want.container, nil, nil, object{"hostNetwork": true})
	pod["apiVersion"], pod["kind"] = "v1", "Pod"
	pod["metadata"] = object{"name": "static", "namespace": "shop", "labels": object{"team": want.owner}}
	text, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.manifests, "static.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// account makes the files of our service account, and returns the token's.
func (c *cluster) account(t *testing.T) (token string) {
	t.Helper()
	if err := os.Mkdir(c.File("account"), 0o700); err != nil {
		t.Fatal(err)
	}
	certificate, err := os.ReadFile(c.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	c.Write("account/ca.crt", certificate)
	return c.Write("account/token", []byte(c.Token("imds-bridge", "imds-bridge")))
}

// applyOurs makes what deploy/kubernetes/daemonset.yaml has, but for the DaemonSet itself.
func (c *cluster) applyOurs(t *testing.T) (manifest string) {
	t.Helper()
	text, err := os.ReadFile("../deploy/kubernetes/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"} {
		c.create(t, string(text), kind)
	}
	return string(text)
}

var kindOf = regexp.MustCompile(`(?m)^kind: (\w+)$`)

// create makes an object of the manifest, as it stands there.
func (c *cluster) create(t *testing.T, manifest, kind string) {
	t.Helper()
	path := map[string]string{
		"Namespace": "/api/v1/namespaces", "ServiceAccount": coreOf + "imds-bridge/serviceaccounts", "DaemonSet": appsOf + "imds-bridge/daemonsets",
		"ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles", "ClusterRoleBinding": bindings,
	}[kind]
	for document := range strings.SplitSeq(manifest, "\n---\n") {
		if found := kindOf.FindStringSubmatch(document); found != nil && found[1] == kind {
			c.Create(path, document)
			return
		}
	}
	t.Fatalf("no %s in the manifest", kind)
}

// checkPod compares a line with what the API server says.
func (c *cluster) checkPod(t *testing.T, line attributed) {
	t.Helper()
	told := line.pod(t)
	await(t, "the API server knows the pod of "+line.raw, 30*time.Second, func() bool {
		for _, p := range c.pods(t, "shop").Items {
			if p.Metadata.Name == told.Name && p.Metadata.UID == told.UID && len(p.Status.ContainerStatuses) == 1 &&
				p.Status.ContainerStatuses[0].ContainerID == "containerd://"+line.record.Caller.ContainerID {
				return true
			}
		}
		return false
	})
}

// checkDaemonSet runs the bridge as the manifest says, but for the cgroup of the lab in the place of the
// node's, and a scheduler, which is not there.
func (c *cluster) checkDaemonSet(t *testing.T, manifest string, want wanted) {
	t.Helper()
	manifest = strings.Replace(manifest, "path: /sys/fs/cgroup\n", "path: "+filepath.Dir(c.instance.Cgroup())+"\n", 1)
	manifest = strings.Replace(manifest, "image: imds-bridge:0.1.0\n", "image: test.local/imds-bridge:1\n", 1)
	c.create(t, manifest, "DaemonSet")
	const namespace = "imds-bridge"
	await(t, "the controller makes a pod", time.Minute, func() bool { return len(c.pods(t, namespace).Items) == 1 })
	pod := c.pods(t, namespace).Items[0].Metadata
	c.Do(http.MethodPost, coreOf+namespace+"/pods/"+pod.Name+"/binding", object{
		"apiVersion": "v1", "kind": "Binding", "metadata": object{"name": pod.Name}, "target": object{"apiVersion": "v1", "kind": "Node", "name": node}})
	await(t, "the pod is ready", 90*time.Second, func() bool {
		conditions := c.pods(t, namespace).Items[0].Status.Conditions
		return slices.Contains(conditions, struct{ Type, Status string }{"Ready", "True"})
	})
	log := filepath.Join(c.File("pods"), namespace+"_"+pod.Name+"_"+pod.UID, "imds-bridge", "0.log")
	await(t, "it names a pod", 30*time.Second, func() bool {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			_, said, _ := strings.Cut(line, " F ") // time, stream, whole line
			var a attributed
			if json.Unmarshal([]byte(said), &a) != nil || json.Unmarshal([]byte(said), &a.record) != nil {
				continue
			}
			if a.raw = strings.TrimSpace(said); a.Msg == "imds call" && want.is(a, a.pod(t)) {
				return true
			}
		}
		return false
	})
}

func (b *bridge) awaitPod(t *testing.T, what string, wanted func(attributed) bool) attributed {
	t.Helper()
	return b.awaitPodAfter(t, 0, what, wanted)
}

func (b *bridge) awaitPodAfter(t *testing.T, n int, what string, wanted func(attributed) bool) (line attributed) {
	t.Helper()
	await(t, what+" is named", 90*time.Second, func() (ok bool) {
		if line, ok = b.findAfter(t, n, wanted); !ok {
			time.Sleep(200 * time.Millisecond) // each look reads the whole log
		}
		return ok
	})
	return line
}
