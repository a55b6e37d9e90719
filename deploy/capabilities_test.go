// Package deploy holds the tests of the files that bring the bridge onto a host.
package deploy

import (
	"encoding/json"
	"maps"
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

// What the code says that it needs, with the hook and with rules of iptables.
var (
	needed        = sorted(slices.Concat(hook.Capabilities, caller.Capabilities))
	neededByRules = slices.Compact(sorted(slices.Concat(iptables.Capabilities, owner.Capabilities, caller.Capabilities)))
)

const (
	hookUnit  = "imds-bridge.service"
	rulesUnit = "imds-bridge-iptables.service"
)

func TestServicesHaveTheNeededCapabilities(t *testing.T) {
	t.Parallel()
	for _, s := range []struct {
		unit, setting string
		want          []string
	}{
		{hookUnit, "CapabilityBoundingSet", needed},
		{hookUnit, "AmbientCapabilities", needed},
		{rulesUnit, "CapabilityBoundingSet", neededByRules}, // root's by being root
	} {
		if got := sorted(serviceSetting(t, s.unit, s.setting)); !slices.Equal(got, s.want) {
			t.Errorf("%s: %s=%v, want %v", s.unit, s.setting, got, s.want)
		}
	}
}

// What the units promise besides: they are active once redirection is proven, a restart loses no call, a
// bridge that died is cleaned up after and one that hangs started again, the maps of kernels before 5.11 fit,
// and no new privileges can be had.
func TestServicesKeepTheirPromises(t *testing.T) {
	t.Parallel()
	for unit, promises := range map[string]map[string]string{
		hookUnit: {
			"ExecStart":              "/usr/bin/imds-bridge run",
			"ExecStop":               "-+/usr/bin/imds-bridge prepare-restart",
			"FileDescriptorStoreMax": "16",
			"LimitMEMLOCK":           "infinity",
		},
		rulesUnit: {"ExecStart": "/usr/bin/imds-bridge run --redirector=iptables"},
	} {
		maps.Copy(promises, map[string]string{
			"Type":            "notify",
			"ExecStopPost":    "-/usr/bin/imds-bridge cleanup --keep-refusing",
			"Restart":         "always",
			"WatchdogSec":     "30",
			"LimitNOFILE":     "65536",
			"OOMScoreAdjust":  "-900",
			"NoNewPrivileges": "yes",
		})
		for setting, want := range promises {
			if got := strings.Join(serviceSetting(t, unit, setting), " "); got != want {
				t.Errorf("%s: %s=%s, want %s", unit, setting, got, want)
			}
		}
	}
}

// The systemd of Amazon Linux 2 is 219. It knows these settings, and takes the values of some of them in
// this way alone; see its systemd.exec(5).
func TestServiceForOldHostsIsReadByTheirSystemd(t *testing.T) {
	t.Parallel()
	known := strings.Fields(`Description Documentation Conflicts After Before WantedBy
		Type ExecStartPre ExecStart ExecStopPost PermissionsStartOnly EnvironmentFile Restart RestartSec
		StartLimitInterval TimeoutStartSec TimeoutStopSec WatchdogSec RuntimeDirectory
		CapabilityBoundingSet LimitNOFILE NoNewPrivileges OOMScoreAdjust PrivateDevices PrivateTmp ProtectHome
		ProtectSystem RestrictAddressFamilies SystemCallArchitectures UMask`)
	for _, match := range regexp.MustCompile(`(?m)^(\w+)=(.*)$`).FindAllStringSubmatch(read(t, "systemd/"+rulesUnit), -1) {
		setting, value := match[1], match[2]
		if !slices.Contains(known, setting) {
			t.Errorf("%s= is not known to systemd 219, or not to this test", setting)
		}
		if setting == "ProtectSystem" && value == "strict" || strings.HasPrefix(setting, "Exec") && strings.Contains(value[:2], "+") {
			t.Errorf("%s=%s: systemd 219 takes it for something else", setting, value)
		}
	}
}

func TestReadersAreToldTheNeededCapabilities(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		page, line string // the first one that begins so
		want       []string
	}{
		{"../README.md", "| `ebpf` |", needed},
		{"../README.md", "| `iptables` |", neededByRules},
	} {
		_, after, found := strings.Cut(read(t, c.page), "\n"+c.line)
		line, _, _ := strings.Cut(after, "\n")
		named := sorted(regexp.MustCompile(`CAP_[A-Z_]+`).FindAllString(line, -1))
		if got, want := slices.Compact(named), slices.Compact(c.want); !found || !slices.Equal(got, want) {
			t.Errorf("%s, %s: names %v, want %v", c.page, c.line, got, want)
		}
	}
}

// serviceSetting returns the words of a setting of a unit.
func serviceSetting(t *testing.T, unit, name string) []string {
	t.Helper()
	line := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(read(t, "systemd/"+unit))
	if line == nil {
		t.Fatalf("%s: no %s", unit, name)
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
