// Package deploy holds the tests of the files that bring the bridge onto a host.
package deploy

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/redirect/hook"
	"github.com/imds-bridge/imds-bridge/redirect/iptables"
	"github.com/imds-bridge/imds-bridge/redirect/owner"
)

// needed is what the code says that it needs.
var needed = sorted(slices.Concat(hook.Capabilities, caller.Capabilities))

func TestServiceHasTheNeededCapabilities(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"CapabilityBoundingSet", "AmbientCapabilities"} {
		if got := sorted(serviceSetting(t, setting)); !slices.Equal(got, needed) {
			t.Errorf("%s=%v, want %v", setting, got, needed)
		}
	}
}

// What the unit promises besides: it is active once the hook is proven, a restart loses no call, a bridge
// that died is cleaned up after and one that hangs started again, the maps of kernels before 5.11 fit, and
// no new privileges can be had.
func TestServiceKeepsItsPromises(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		"Type":                   "notify",
		"ExecStop":               "-+/usr/bin/imds-bridge prepare-restart",
		"FileDescriptorStoreMax": "16",
		"ExecStopPost":           "-/usr/bin/imds-bridge cleanup --keep-refusing",
		"WatchdogSec":            "30",
		"LimitMEMLOCK":           "infinity",
		"NoNewPrivileges":        "yes",
	} {
		if got := strings.Join(serviceSetting(t, setting), " "); got != want {
			t.Errorf("%s=%s, want %s", setting, got, want)
		}
	}
}

func TestReadersAreToldTheNeededCapabilities(t *testing.T) {
	t.Parallel()
	byRules := sorted(slices.Concat(iptables.Capabilities, owner.Capabilities, caller.Capabilities))
	for _, c := range []struct {
		page, line string // the first one that begins so
		want       []string
	}{
		{"../README.md", "| `ebpf` |", needed},
		{"../README.md", "| `iptables` |", byRules},
	} {
		_, after, found := strings.Cut(read(t, c.page), "\n"+c.line)
		line, _, _ := strings.Cut(after, "\n")
		named := sorted(regexp.MustCompile(`CAP_[A-Z_]+`).FindAllString(line, -1))
		if got, want := slices.Compact(named), slices.Compact(c.want); !found || !slices.Equal(got, want) {
			t.Errorf("%s, %s: names %v, want %v", c.page, c.line, got, want)
		}
	}
}

// serviceSetting returns the words of a setting of the unit.
func serviceSetting(t *testing.T, name string) []string {
	t.Helper()
	line := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(read(t, "systemd/imds-bridge.service"))
	if line == nil {
		t.Fatalf("no %s", name)
	}
	return strings.Fields(line[1])
}

func TestDaemonSetHasTheNeededCapabilities(t *testing.T) {
	t.Parallel()
	path, err := yaml.PathString("$.spec.template.spec.containers[0].securityContext.capabilities")
	if err != nil {
		t.Fatal(err)
	}
	documents := strings.Split(read(t, "kubernetes/daemonset.yaml"), "\n---\n")
	var got added
	if err := path.Read(strings.NewReader(documents[len(documents)-1]), &got); err != nil {
		t.Fatal(err)
	}
	got.check(t, needed)
}

// The API of ECS knows neither BPF nor PERFMON. To the kernel SYS_ADMIN is both.
func TestTaskHasTheNeededCapabilities(t *testing.T) {
	t.Parallel()
	want := []string{"CAP_SYS_ADMIN"}
	for _, capability := range needed {
		if capability != "CAP_BPF" && capability != "CAP_PERFMON" {
			want = append(want, capability)
		}
	}
	taskCapabilities(t).check(t, sorted(want))
}

func taskCapabilities(t *testing.T) added {
	t.Helper()
	var task struct {
		ContainerDefinitions []struct {
			LinuxParameters struct{ Capabilities added }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "ecs/daemon-task.json")), &task); err != nil {
		t.Fatal(err)
	}
	return task.ContainerDefinitions[0].LinuxParameters.Capabilities
}

// added is what Kubernetes and ECS call the capabilities of a container: without CAP_.
type added struct{ Add, Drop []string }

func (a added) check(t *testing.T, want []string) {
	t.Helper()
	var got []string
	for _, capability := range a.Add {
		got = append(got, "CAP_"+capability)
	}
	if got = sorted(got); !slices.Equal(got, want) {
		t.Errorf("adds %v, want %v", got, want)
	}
	if !slices.Equal(a.Drop, []string{"ALL"}) {
		t.Errorf("drops %v, want what else the runtime gives: ALL", a.Drop)
	}
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
