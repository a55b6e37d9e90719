package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

var changingClient = built("changing", ".", "./clients/changing")

// changing is a process that calls, and changes, when it is told to.
type changing struct{ dialogue }

func (i *instance) startChanging(t *testing.T, cmd *exec.Cmd) changing {
	t.Helper()
	return changing{i.startDialogue(t, cmd)}
}

func (c changing) order(t *testing.T, want string, words ...string) {
	t.Helper()
	if err := json.NewEncoder(c.in).Encode(words); err != nil {
		t.Fatal(err)
	}
	if c.said.Scan(); c.said.Text() != want {
		t.Fatalf("%s: %q", words[0], c.said.Text())
	}
}

// told is what a log line says of a process that changes.
type told struct {
	Comm, Exe, Unit, Slice string
	Args                   []string
	ContainerID            string `json:"container_id"`
	Complete               bool
	ExeDeleted             bool `json:"exe_deleted"`
}

// call makes one, and returns the log line of it.
func (c changing) call(t *testing.T, b *bridge) (who told, raw string) {
	t.Helper()
	before := len(b.calls(t, 0, pid(c.cmd.Process.Pid)))
	c.order(t, "200", "call")
	raw = b.calls(t, before+1, pid(c.cmd.Process.Pid))[before].raw
	var line struct{ Caller told }
	if err := json.Unmarshal([]byte(raw), &line); err != nil {
		t.Fatal(err)
	}
	return line.Caller, raw
}

// A process that changes its name, its arguments and its cgroup between calls is named as what it is at
// each; one with a megabyte of arguments and one whose file is gone are named all the same. None of it
// reaches a terminal or fills the log.
func TestAttributionFollowsChangingProcesses(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	c := i.startCollector(t)
	sources := []string{"--attribution.docker=", "--attribution.cri=", "--attribution.ecs=off", "--attribution.kubernetes=off"}
	b := i.startBridge(t, bridgeOptions{flags: sources, env: c.env()})
	program := changingClient(t)
	check := func(t *testing.T, what string, got, want told, raw string) {
		t.Helper()
		if !reflect.DeepEqual(got, want) || strings.Contains(raw, `\u00`) {
			t.Errorf("%s: %s", what, raw)
		}
	}
	explain := func(t *testing.T, p changing, facts map[string]string) {
		t.Helper()
		x, text := i.explain(t, b, fmt.Sprint(p.cmd.Process.Pid), sources...)
		for name, value := range facts {
			x.check(t, name, value, "")
		}
		if strings.Contains(text, "\x1b") || x.Processes[0].Calls.V1 == 0 {
			t.Errorf("explain:\n%s", text)
		}
	}
	hasSpan := func(t *testing.T, p changing, want map[string]any) {
		t.Helper()
		want["process.pid"] = p.cmd.Process.Pid
		await(t, fmt.Sprintf("a span with %v", want), 10*time.Second, func() bool {
			return slices.ContainsFunc(c.spans(t), func(s span) bool {
				for key, value := range want {
					if fmt.Sprint(s.attributes[key]) != fmt.Sprint(value) {
						return false
					}
				}
				return true
			})
		})
	}
	cgroup := func(t *testing.T, name string) string {
		dir := filepath.Join(i.Cgroup(), name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}

	t.Run("name, arguments and cgroup", func(t *testing.T) {
		id := strings.Repeat("0123456789abcdef", 4)
		p := i.startChanging(t, &exec.Cmd{Path: program, Args: []string{"first-job", "--verbose"}})
		p.order(t, "done", "cgroup", cgroup(t, "batch.slice/first.service"))
		got, raw := p.call(t, b)
		check(t, "as it began", got, told{Comm: "changing", Exe: program, Unit: "first.service", Slice: "batch.slice", Args: []string{"first-job", "--verbose"}, Complete: true}, raw)

		p.order(t, "done", "name", "\x1b[31mred\nline")
		p.order(t, "done", "args", "other\x1b[2J", "--a=\n\x00-xy")
		p.order(t, "done", "cgroup", cgroup(t, "docker-"+id+".scope"))
		changed := told{Comm: `\x1b[31mred\nline`, Exe: program, Args: []string{`other\x1b[2J`, `--a=\n`, "-xy"}, ContainerID: id, Complete: true}
		got, raw = p.call(t, b)
		check(t, "changed", got, changed, raw)
		hasSpan(t, p, map[string]any{"container.id": id, "process.executable.path": program, "process.command_args": changed.Args})
		explain(t, p, map[string]string{"container": id + " of docker", "executable": program, "arguments": strings.Join(changed.Args, " ")})

		p.order(t, "done", "name", "third")
		p.order(t, "done", "cgroup", cgroup(t, "batch.slice/second.service"))
		got, raw = p.call(t, b)
		check(t, "changed again", got, told{Comm: "third", Exe: program, Unit: "second.service", Slice: "batch.slice", Args: changed.Args, Complete: true}, raw)
	})

	t.Run("a megabyte of arguments", func(t *testing.T) {
		args := append([]string{"big"}, slices.Repeat([]string{strings.Repeat("x", 64<<10)}, 16)...)
		p := i.startChanging(t, &exec.Cmd{Path: program, Args: args})
		got, raw := p.call(t, b)
		if len(raw) > 8<<10 || len(got.Args) < 2 || got.Args[0] != "big" || !strings.HasSuffix(got.Args[len(got.Args)-1], "…") || got.Exe != program || !got.Complete {
			t.Errorf("%d bytes: %s", len(raw), raw)
		}
		hasSpan(t, p, map[string]any{"process.executable.path": program, "process.command_args": got.Args})
		explain(t, p, map[string]string{"executable": program, "arguments": strings.Join(got.Args, " ")})
	})

	t.Run("a file that is gone", func(t *testing.T) {
		gone := filepath.Join(t.TempDir(), "short of life")
		if out, err := exec.Command("cp", program, gone).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		p := i.startChanging(t, exec.Command(gone))
		if err := os.Remove(gone); err != nil {
			t.Fatal(err)
		}
		got, raw := p.call(t, b)
		check(t, "gone", got, told{Comm: "short of life", Exe: gone, Args: []string{gone}, Complete: true, ExeDeleted: true}, raw)
		hasSpan(t, p, map[string]any{"imds.caller.executable_deleted": true, "process.executable.path": gone, "process.executable.name": "short of life"})
		explain(t, p, map[string]string{"executable": gone + " (its file was removed or replaced)"})
	})
}
