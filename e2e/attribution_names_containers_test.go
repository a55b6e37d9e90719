package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// A container's v1 call is told with its name, image, owner, client and advice, in the log, on the span
// and by explain alike.
func TestAttributionNamesContainers(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	d := i.startDocker(t)
	d.load(t, callerClient(t))
	c := i.startCollector(t)
	sources := []string{"--attribution.docker=" + d.socket, "--attribution.cri=", "--attribution.ecs=off", "--attribution.kubernetes=off"}
	b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup, flags: sources, env: c.env()})

	id := d.run(t, nil, "create", "--interactive", "--network=bridge", "--name=shop-web", "--label=team=checkout", "--label=note=a\x1b[2J\nb", "caller", "/caller", "-kind=v1", "-every=100ms")
	d.run(t, nil, "start", id)
	t.Cleanup(func() { d.run(t, nil, "rm", "--force", id) })

	var line attributed
	await(t, "a log line with all that is to be known", 20*time.Second, func() (ok bool) {
		line, ok = b.find(t, func(a attributed) bool {
			return a.record.Caller.ContainerID == id && a.Caller.Container.Image != "" && a.By.Name != ""
		})
		return ok
	})
	if line.Caller.Container.Name != "shop-web" || line.Caller.Container.Image != "caller:latest" || line.Caller.Owner.Name != "checkout" || line.Caller.Owner.From != "container.label:team" {
		t.Errorf("log line: %s", line.raw)
	}
	if line.Version != "v1" || line.By.Name == "" || line.Advice.Code == "" || line.Advice.Text == "" || line.Advice.Link == "" {
		t.Errorf("log line: %s", line.raw)
	}
	awaitSpan(t, c, line, map[string]any{
		"container.id": id, "container.name": "shop-web", "container.image.name": "caller", "imds.owner.name": "checkout",
		"imds.owner.from": "container.label:team", "imds.client.name": line.By.Name, "imds.client.confidence": line.By.Confidence,
		"imds.advice.code": line.Advice.Code, "imds.advice.text": line.Advice.Text,
	})

	for _, what := range []string{fmt.Sprint(line.Caller.PID), "shop-web", id[:12], id} {
		x, text := i.explain(t, b, what, sources...)
		x.check(t, "container", id+" of docker", "its cgroup")
		x.check(t, "container name", "shop-web", "docker")
		x.check(t, "image", "caller:latest", "docker")
		x.check(t, "owner", "checkout", "container.label:team")
		x.check(t, "executable", "/caller", "/proc/")
		told := x.Processes[0].Calls
		if told.V1 == 0 || told.Client.Name != line.By.Name || told.Client.Confidence != line.By.Confidence || told.Advice != line.Advice {
			t.Errorf("explain %s: %+v, the log: %s", what, told, line.raw)
		}
		if len(x.Sources) != 1 || x.Sources[0].Source != "docker" || !x.Sources[0].Ready || len(x.Missing) != 0 {
			t.Errorf("explain %s: sources %+v, missing %q", what, x.Sources, x.Missing)
		}
		if (x.Container != "") != (what != fmt.Sprint(line.Caller.PID)) || strings.Contains(text, "\x1b") || !strings.Contains(text, line.Advice.Text) {
			t.Errorf("explain %s:\n%s", what, text)
		}
	}
	// A second process of it: what both have in common is said once.
	d.run(t, nil, "exec", "--detach", "--interactive", id, "/caller", "-kind=v2")
	var text string
	await(t, "both processes are explained", 10*time.Second, func() bool {
		got := finish(t, i.Host().Start, command(t, append([]string{"explain", "shop-web", "--admin.listen=unix:" + b.admin}, sources...)...))
		text = got.stdout
		return got.err == nil && strings.Contains(text, ": 2 processes")
	})
	if strings.Count(text, "caller:latest") != 1 || strings.Count(text, "\nprocess ") != 2 || !strings.Contains(text, "runtime /caller") || !strings.Contains(text, "entrypoint /caller") {
		t.Errorf("explain shop-web:\n%s", text)
	}
	if status, _ := b.get("/callers?pid=1073741824"); status != http.StatusNotFound {
		t.Errorf("/callers of nobody: %d", status)
	}
}
