package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// attributed is what a log line tells of a call besides its process.
type attributed struct {
	record
	Caller struct {
		PID       int
		Script    string
		Container struct{ Name, Image string }
		Package   struct{ Manager, Name, Version string }
		Owner     struct{ Name, From string }
	}
	By struct {
		Name, Version, Confidence, From string
		SpeaksV2                        string `json:"speaks_v2"`
	} `json:"imds_client"`
	Advice struct{ Code, Text, Link string }
}

// find looks for a log line of a call.
func (b *bridge) find(t *testing.T, wanted func(attributed) bool) (line attributed, ok bool) {
	t.Helper()
	for _, r := range b.records(t) {
		if r.Msg != "imds call" {
			continue
		}
		line = attributed{}
		if err := json.Unmarshal([]byte(r.raw), &line); err != nil {
			t.Fatalf("%v: %s", err, r.raw)
		}
		if line.record = r; wanted(line) {
			return line, true
		}
	}
	return attributed{}, false
}

// explanation is what `imds-bridge explain --output json` says of one process.
type explanation struct {
	Container string
	Processes []struct {
		PID   int
		Facts []struct{ Name, Value, From string }
		Calls struct {
			V1     int
			Client struct {
				Name, Version, Confidence, From string
				SpeaksV2                        string `json:"speaks_v2"`
			}
			Advice struct{ Code, Text, Link string }
		}
	}
	Sources []struct {
		Source string
		Ready  bool
	}
	Missing []string
}

// explain asks about a process or container with the settings of the bridge.
func (i *instance) explain(t *testing.T, b *bridge, what string, flags ...string) (x explanation, text string) {
	t.Helper()
	args := append([]string{"explain", what, "--admin.listen=unix:" + b.admin}, flags...)
	for _, output := range []string{"json", "text"} {
		got := finish(t, i.Host().Start, command(t, append(args, "--output="+output)...))
		if got.err != nil {
			t.Fatalf("explain: %v, %s", got.err, got.stderr)
		}
		if text = got.stdout; output == "json" {
			if err := json.Unmarshal([]byte(text), &x); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
		}
	}
	if len(x.Processes) != 1 {
		t.Fatalf("%d processes are explained:\n%s", len(x.Processes), text)
	}
	return x, text
}

func (x explanation) check(t *testing.T, name, value, from string) {
	t.Helper()
	for _, f := range x.Processes[0].Facts {
		if f.Name == name && f.Value == value && strings.Contains(f.From, from) {
			return
		}
	}
	t.Errorf("not explained: %s %q from %q in %+v", name, value, from, x.Processes[0].Facts)
}

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
	want := map[string]any{
		"container.id": id, "container.name": "shop-web", "container.image.name": "caller", "imds.owner.name": "checkout",
		"imds.owner.from": "container.label:team", "imds.client.name": line.By.Name, "imds.client.confidence": line.By.Confidence,
		"imds.advice.code": line.Advice.Code, "imds.advice.text": line.Advice.Text,
	}
	await(t, "a span with all that is to be known", 5*time.Second, func() bool {
		return slices.ContainsFunc(c.spans(t), func(s span) bool {
			for key, value := range want {
				if s.attributes[key] != value {
					return false
				}
			}
			return s.attributes["process.pid"] == line.Caller.PID
		})
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
