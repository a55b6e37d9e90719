package deploy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// What a sidecar's init step is told must be what the sidecar goes by, and the exempt user must be its own.
func TestSidecarAndItsInitStepAgree(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]sidecar{"kubernetes": kubernetesSidecar(t), "ecs": ecsSidecar(t)} {
		want := []string{
			"redirect", "install", "--exempt-uid=" + s.user,
			"--redirect.listen=" + s.env["IMDS_BRIDGE_REDIRECT_LISTEN"],
			"--redirect.listen6=" + s.env["IMDS_BRIDGE_REDIRECT_LISTEN6"],
		}
		if !slices.Equal(s.install, want) {
			t.Errorf("%s: the init step is %q, want %q", name, s.install, want)
		}
		if s.user == "" || s.user == "0" {
			t.Errorf("%s: the sidecar is user %q", name, s.user)
		}
		if s.env["IMDS_BRIDGE_REDIRECTOR"] != "iptables" || s.env["IMDS_BRIDGE_REDIRECT_INSTALL"] != "false" {
			t.Errorf("%s: the sidecar has settings %v", name, s.env)
		}
	}
}

func TestSidecarHasNoCapability(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]sidecar{"kubernetes": kubernetesSidecar(t), "ecs": ecsSidecar(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.capabilities.check(t, nil)
			s.initCapabilities.check(t, []string{"CAP_NET_ADMIN"})
		})
	}
}

func TestSidecarWithTheHookHasTheNeededCapabilities(t *testing.T) {
	t.Parallel()
	containers := initContainers(t, "kubernetes/sidecar-ebpf.yaml")
	containers[0].SecurityContext.Capabilities.check(t, nil)
	containers[1].SecurityContext.Capabilities.check(t, needed)
}

// sidecar is what the files say of one that has rules.
type sidecar struct {
	install                        []string
	user                           string
	env                            map[string]string
	capabilities, initCapabilities added
}

type initContainer struct {
	Args            []string
	Env             []struct{ Name, Value string }
	SecurityContext struct {
		RunAsUser    json.Number `yaml:"runAsUser"`
		Capabilities added
	} `yaml:"securityContext"`
}

func initContainers(t *testing.T, file string) (containers []initContainer) {
	t.Helper()
	path, err := yaml.PathString("$.spec.template.spec.initContainers")
	if err != nil {
		t.Fatal(err)
	}
	if err := path.Read(strings.NewReader(read(t, file)), &containers); err != nil {
		t.Fatal(err)
	}
	if len(containers) != 2 {
		t.Fatalf("%s has %d init containers", file, len(containers))
	}
	return containers
}

func kubernetesSidecar(t *testing.T) sidecar {
	t.Helper()
	containers := initContainers(t, "kubernetes/sidecar.yaml")
	step, bridge := containers[0], containers[1]
	s := sidecar{
		install: step.Args, user: bridge.SecurityContext.RunAsUser.String(), env: map[string]string{},
		capabilities: bridge.SecurityContext.Capabilities, initCapabilities: step.SecurityContext.Capabilities,
	}
	for _, variable := range bridge.Env {
		s.env[variable.Name] = variable.Value
	}
	return s
}

// taskContainer is a container of a task of ECS, as far as it is tried here.
type taskContainer struct {
	Name, Image, User      string
	Command                []string
	ReadonlyRootFilesystem bool
	DockerSecurityOptions  []string
	Environment            []struct{ Name, Value string }
	LinuxParameters        struct{ Capabilities added }
	HealthCheck            struct{ Command []string }
}

func sidecarTask(t *testing.T) []taskContainer {
	t.Helper()
	var task struct{ ContainerDefinitions []taskContainer }
	if err := json.Unmarshal([]byte(read(t, "ecs/sidecar-task.json")), &task); err != nil {
		t.Fatal(err)
	}
	return task.ContainerDefinitions
}

func ecsSidecar(t *testing.T) sidecar {
	t.Helper()
	containers := sidecarTask(t)
	step, bridge := containers[0], containers[1]
	s := sidecar{
		install: step.Command, user: bridge.User, env: map[string]string{},
		capabilities: bridge.LinuxParameters.Capabilities, initCapabilities: step.LinuxParameters.Capabilities,
	}
	for _, variable := range bridge.Environment {
		s.env[variable.Name] = variable.Value
	}
	return s
}

// The names are those of the kubelet's two drivers for cgroups.
func TestSidecarWithTheHookFindsThePodsCgroup(t *testing.T) {
	t.Parallel()
	step := initContainers(t, "kubernetes/sidecar-ebpf.yaml")[0]
	for _, pod := range []string{
		"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0.slice",
		"kubepods.slice/kubepods-pod0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0.slice",
		"kubepods/besteffort/pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
		"", // of a node where it is not to be seen
	} {
		cgroups, settings := t.TempDir(), t.TempDir()
		for _, dir := range []string{pod + "/cri-containerd-1.scope", "kubepods.slice/kubepods-podother.slice", "system.slice"} {
			if err := os.MkdirAll(filepath.Join(cgroups, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		script := strings.NewReplacer("/host/cgroup", cgroups, "/config/", settings+"/").Replace(step.Args[0])
		cmd := exec.Command("sh", "-ec", script)
		cmd.Env = append(os.Environ(), "POD_UID=0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
		out, err := cmd.CombinedOutput()
		if pod == "" {
			if err == nil {
				t.Errorf("it found %s", read(t, filepath.Join(settings, "config.yaml")))
			}
			continue
		}
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got, want := read(t, filepath.Join(settings, "config.yaml")), "redirect.cgroup: "+filepath.Join(cgroups, pod)+"\n"; got != want {
			t.Errorf("it writes %q, want %q", got, want)
		}
	}
}
