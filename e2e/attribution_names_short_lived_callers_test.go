package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

var shortClient = built("short", ".", "./clients/short")

// Processes that live for the few milliseconds of a call, in containers: each of them is named with its
// executable, its arguments and its container, by id, name and image.
func TestAttributionNamesShortLivedCallers(t *testing.T) {
	t.Parallel()
	const inEach = 500
	i := newInstance(t, simulator.Options{})
	d := i.startDocker(t)
	d.load(t, shortClient(t))
	b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup, flags: []string{
		"--attribution.docker=" + d.socket, "--attribution.cri=", "--attribution.ecs=off", "--attribution.kubernetes=off",
	}})
	names := []string{"nightly", "hourly"}
	ids := make(map[string]string)
	var lives []time.Duration
	for _, name := range names {
		id := d.run(t, nil, "create", "--interactive", "--network=bridge", "--name="+name, "short", "/short", "stay")
		d.run(t, nil, "start", id)
		t.Cleanup(func() { d.run(t, nil, "rm", "--force", id) })
		await(t, "the container is known", 20*time.Second, func() bool {
			_, ok := b.find(t, func(a attributed) bool { return a.record.Caller.ContainerID == id && a.Caller.Container.Image != "" })
			return ok
		})
		ids[name] = id
		var lived []time.Duration
		if err := json.Unmarshal([]byte(d.run(t, nil, "exec", id, "/short", "run", name, fmt.Sprint(inEach))), &lived); err != nil {
			t.Fatal(err)
		}
		lives = append(lives, lived...)
	}
	slices.Sort(lives)
	t.Logf("%d processes, of which half lived %s at most, and all but ten %s", len(lives), lives[len(lives)/2], lives[len(lives)-11])

	await(t, "a log line of each process", 20*time.Second, func() bool {
		called := slices.DeleteFunc(b.log(), func(line string) bool {
			return !strings.Contains(line, `"comm":"short"`) || strings.Contains(line, `"stay"`)
		})
		return len(called) >= inEach*len(names)
	})
	lines := make(map[string]attributed)
	for _, r := range b.records(t) {
		if r.Msg != "imds call" || len(r.Caller.Args) != 3 {
			continue
		}
		var line attributed
		if err := json.Unmarshal([]byte(r.raw), &line); err != nil {
			t.Fatal(err)
		}
		line.record = r
		lines[r.Caller.Args[2]] = line
	}
	for name, id := range ids {
		for n := range inEach {
			who := lines[fmt.Sprint(name, "-", n)]
			if is := who.record.Caller; !is.Complete || is.Exe != "/short" || is.ContainerID != id || is.ContainerRuntime != "docker" ||
				who.Caller.Container.Name != name || who.Caller.Container.Image != "short:latest" {
				t.Errorf("process %d of container %s: %s", n, name, who.raw)
			}
		}
		// They have ended; explain says of the last one what it was all the same.
		x, _ := i.explain(t, b, fmt.Sprint(lines[fmt.Sprint(name, "-", inEach-1)].Caller.PID), dockerAlone(d.socket)...)
		if !x.Processes[0].Ended || x.Processes[0].Calls.V1 != 1 {
			t.Errorf("explain: %+v", x)
		}
		x.check(t, "executable", "/short", "/proc/")
		x.check(t, "container", id+" of docker", "its cgroup")
		x.check(t, "container name", name, "docker")
		x.check(t, "image", "short:latest", "docker")
	}
}
