package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// A container of Podman's is told with its name, image, digest and owner. What watches over it, conmon,
// is not taken for what runs in it.
func TestAttributionNamesPodmanContainers(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	d := i.startPodman(t)
	d.load(t, callerClient(t))
	c := i.startCollector(t)
	flags := dockerAlone(d.socket)
	b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup, flags: flags, env: c.env()})
	web := d.call(t, []string{"--name=web", "--label=team=checkout", "--cgroup-parent=/" + filepath.Base(d.cgroup) + "/podman"})

	line := b.awaitCall(t, web, func(a attributed) bool {
		return a.Caller.Container.Name == "web" && strings.HasPrefix(a.Caller.Container.Image, "localhost/caller:latest@sha256:")
	})
	who := line.record.Caller
	if who.ContainerRuntime != "podman" || who.Exe != "/caller" || line.Caller.Owner.Name != "checkout" || line.Caller.Owner.From != "container.label:team" {
		t.Errorf("log line: %s", line.raw)
	}
	if !slices.ContainsFunc(who.Ancestors, func(a struct {
		PID  int
		Comm string
		Exe  string
	}) bool {
		return a.Comm == "conmon"
	}) {
		t.Errorf("conmon is not among its ancestors: %s", line.raw)
	}
	image, digest, _ := strings.Cut(line.Caller.Container.Image, "@")
	awaitSpan(t, c, line, map[string]any{
		"container.id": web.id, "container.name": "web", "container.image.name": strings.TrimSuffix(image, ":latest"), "imds.owner.name": "checkout",
	})

	x, _ := i.explain(t, b, "web", flags...) // of one process
	if x.Processes[0].PID != who.PID {
		t.Errorf("explain web: process %d, not %d", x.Processes[0].PID, who.PID)
	}
	x.check(t, "container", web.id+" of podman", "its cgroup")
	x.check(t, "container name", "web", "podman")
	x.check(t, "image", image+"@"+digest, "podman")
	x.check(t, "owner", "checkout", "container.label:team")
	monitor, _ := i.explain(t, b, fmt.Sprint(who.PPID), flags...)
	monitor.check(t, "container", "none", "its cgroup")
	web.checkServed(t)
}
