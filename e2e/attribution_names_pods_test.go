package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// toldPod is what a log line says of its caller's pod.
type toldPod struct {
	Name, Namespace, UID, Container, Node, Workload string

	ServiceAccount string `json:"service_account"`
	WorkloadKind   string `json:"workload_kind"`
}

func (a attributed) pod(t *testing.T) toldPod {
	t.Helper()
	var line struct{ Caller struct{ Pod toldPod } }
	if err := json.Unmarshal([]byte(a.raw), &line); err != nil {
		t.Fatal(err)
	}
	return line.Caller.Pod
}

// A pod's v1 call is told with all that Kubernetes knows of it, from when it is known. The API server is one
// that answers as a real one was recorded to; the containers are Docker's, in cgroups as the kubelet makes
// them. With a real kubelet: make test-kubernetes.
func TestAttributionNamesPods(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	d := i.startDocker(t)
	d.load(t, callerClient(t))
	c := i.startCollector(t)
	pods := []struct {
		toldPod
		cgroup, owner, from, attribute string
	}{
		{toldPod{Name: "web-6d4cf56db6-x7k2p", Container: "app", ServiceAccount: "web", WorkloadKind: "Deployment", Workload: "web"},
			"kubepods/burstable/pod", "shop", "pod.label:team", "k8s.deployment.name"},
		{toldPod{Name: "agent-9xk2m", Container: "main", ServiceAccount: "default", WorkloadKind: "DaemonSet", Workload: "agent"},
			"kubepods/besteffort/pod", "agent", "pod.workload", "k8s.daemonset.name"},
		{toldPod{Name: "resolver-9xk2m", Container: "main", ServiceAccount: "default", WorkloadKind: "DaemonSet", Workload: "resolver"},
			"kubepods/besteffort/pod", "resolver", "pod.workload", "k8s.daemonset.name"},
		{toldPod{Name: "report-29384010-l9xvw", Container: "job", ServiceAccount: "default", WorkloadKind: "CronJob", Workload: "report"},
			"kubepods/pod", "report", "pod.workload", "k8s.cronjob.name"},
	}
	kubelet, server := d.orchestrate(t, "kubepods"), i.startAPIServer(t)
	containers := make([]contained, len(pods))
	for n := range pods {
		p := &pods[n]
		p.Namespace, p.Node, p.UID = "shop", "node-1", server.uid(t, p.Name)
		containers[n] = kubelet.call(t, p.cgroup+p.UID)
		server.runs(t, p.Name, p.Container, containers[n].id)
	}
	server.deny(true)
	b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup, account: server.account, env: append(c.env(), server.env...), flags: []string{
		"--log.level=info", "--attribution.kubernetes=on", "--attribution.node=node-1", "--attribution.docker=", "--attribution.cri=", "--attribution.ecs=off"}})

	b.awaitWarning(t, "needs list and watch on pods in the ClusterRole of deploy/kubernetes")
	for n, p := range pods {
		b.awaitCall(t, containers[n], func(a attributed) bool { return a.pod(t) == toldPod{UID: p.UID} }) // its cgroup has that
	}
	if line, ok := b.find(t, func(a attributed) bool {
		return a.pod(t).Name != "" || a.Caller.Container.Image != "" || a.Caller.Owner.Name != ""
	}); ok {
		t.Errorf("named, by nobody: %s", line.raw)
	}

	server.deny(false)
	for n, p := range pods {
		line := b.awaitCall(t, containers[n], func(a attributed) bool { return a.pod(t) == p.toldPod })
		if line.Caller.Owner.Name != p.owner || line.Caller.Owner.From != p.from || !line.record.Caller.HostNetwork || line.record.Caller.ContainerID != containers[n].id {
			t.Errorf("log line: %s", line.raw)
		}
		awaitSpan(t, c, line, map[string]any{
			"container.id": containers[n].id, "k8s.pod.name": p.Name, "k8s.pod.uid": p.UID, "k8s.namespace.name": "shop",
			"k8s.node.name": "node-1", "k8s.container.name": p.Container, p.attribute: p.Workload,
			"imds.caller.k8s.service_account": p.ServiceAccount, "imds.owner.name": p.owner, "imds.owner.from": p.from,
		})
	}

	// The token is not known any more, until there is a new one.
	server.rotate(t)
	b.awaitWarning(t, "does not know the token in /var/run/secrets/kubernetes.io/serviceaccount/token")
	now := len(b.log())
	await(t, "a call meanwhile", 20*time.Second, func() bool {
		line, ok := b.findAfter(t, now, func(a attributed) bool { return a.record.Caller.ContainerID == containers[0].id })
		if ok && line.pod(t) != pods[0].toldPod {
			t.Fatalf("forgotten with the token: %s", line.raw)
		}
		return ok
	})
	server.writeToken(t)
	b.awaitWatched(t, 2)
	for _, of := range containers {
		of.checkServed(t)
	}
	if n := b.warnings(t, "containers are not watched"); n != 2 {
		t.Errorf("%d warnings for two causes", n)
	}
}

// orchestrated are containers in cgroups named as an orchestrator would.
type orchestrated struct{ docker }

// orchestrate is called before there are any.
func (d docker) orchestrate(t *testing.T, tops ...string) orchestrated {
	t.Helper()
	for _, top := range tops {
		removeCgroups(t, filepath.Join(filepath.Base(d.cgroup), "docker", top))
	}
	return orchestrated{d}
}

func (d orchestrated) call(t *testing.T, cgroup string, flags ...string) contained {
	t.Helper()
	parent := "/" + filepath.Join(filepath.Base(d.cgroup), "docker", cgroup)
	return d.docker.call(t, append(flags, "--cgroup-parent="+parent), "-every=200ms")
}

// removeCgroups removes what runc leaves of the cgroups above those of containers: in the end, and in the
// first version alone. Those of the second go with the lab.
func removeCgroups(t *testing.T, below string) {
	t.Helper()
	t.Cleanup(func() {
		tops, err := filepath.Glob("/sys/fs/cgroup/*/" + below)
		if err != nil {
			t.Fatal(err)
		}
		for _, top := range tops {
			await(t, top+" is removed", 10*time.Second, func() bool {
				return exec.Command("find", top, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run() == nil
			})
		}
	})
}
