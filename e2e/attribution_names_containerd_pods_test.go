package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/imds-bridge/imds-bridge/caller/container/containertest"
	"github.com/imds-bridge/imds-bridge/simulator"
)

// Pods on a node of which containerd alone is asked: by the labels that the kubelet gives its containers,
// each call is told with its pod. Neither what holds the pod nor the shim is taken for what calls.
func TestAttributionNamesContainerdPods(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	t.Cleanup(func() { containertest.RemoveFirstVersion(t, i.Lab) })
	d := containertest.StartContainerd(t, i.Lab, pause(t), callerClient(t))
	c := i.startCollector(t)
	flags := []string{"--attribution.docker=", "--attribution.cri=" + d.Socket, "--attribution.ecs=off", "--attribution.kubernetes=off"}
	b := i.startBridge(t, bridgeOptions{cgroup: filepath.Dir(i.Cgroup()), flags: flags, env: c.env()})

	for name, uid := range map[string]string{"web-1": "11111111-1111-1111-1111-111111111111", "ledger-1": "22222222-2222-2222-2222-222222222222"} {
		team := "team-of-" + name
		p := d.RunPod(t, name, "shop", uid, map[string]string{"team": team}, nil)
		dir := t.TempDir()
		calls := contained{file: filepath.Join(dir, "calls")}
		calls.id = d.Run(t, p, "app", []string{"/caller", "-to=/told/calls", "-every=50ms"}, &criapi.Mount{ContainerPath: "/told", HostPath: dir})

		line := b.awaitCall(t, calls, func(a attributed) bool { return a.Caller.Container.Image != "" })
		who, told := line.record.Caller, line.pod(t)
		if who.ContainerRuntime != "containerd" || who.Exe != "/caller" || who.Ancestors[0].Comm != "containerd-shim" ||
			line.Caller.Container.Name != "app" || !strings.HasPrefix(line.Caller.Container.Image, "registry.test/shop/programs:1@sha256:") ||
			line.Caller.Owner.Name != team || line.Caller.Owner.From != "pod.label:team" {
			t.Errorf("log line: %s", line.raw)
		}
		if told.Name != name || told.Namespace != "shop" || told.UID != uid || told.Container != "app" {
			t.Errorf("log line: %s", line.raw)
		}
		awaitSpan(t, c, line, map[string]any{
			"container.id": calls.id, "container.name": "app", "container.image.name": "registry.test/shop/programs",
			"k8s.pod.name": name, "k8s.pod.uid": uid, "k8s.namespace.name": "shop", "k8s.container.name": "app", "imds.owner.name": team,
		})
		for _, what := range []string{name, "shop/" + name, fmt.Sprint(who.PID)} {
			x, _ := i.explain(t, b, what, flags...)
			x.check(t, "container", calls.id+" of containerd", "its cgroup")
			x.check(t, "started by", fmt.Sprintf("entrypoint /caller, process %d", who.PID), "its ancestors")
			x.check(t, "pod", "shop/"+name, "cri")
			x.check(t, "image", line.Caller.Container.Image, "cri")
			x.check(t, "owner", team, "pod.label:team")
		}
		holding, _ := i.explain(t, b, p.ID, flags...)
		holding.check(t, "executable", "/pause", "/proc/")
		holding.check(t, "pod", "shop/"+name, "cri")
		shim, _ := i.explain(t, b, fmt.Sprint(who.PPID), flags...)
		shim.check(t, "container", "none", "its cgroup")
		calls.checkServed(t)
	}
}
