package schema

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	kubejson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

func TestKubernetesSidecarsAreOfTheAPI(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sidecar", "sidecar-ebpf"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asJSON, err := yaml.YAMLToJSONStrict([]byte(read(t, "../kubernetes/"+name+".yaml")))
			if err != nil {
				t.Fatal(err)
			}
			var deployment appsv1.Deployment
			strict, err := kubejson.UnmarshalStrict(asJSON, &deployment)
			if err := errors.Join(append(strict, err)...); err != nil {
				t.Fatal(err)
			}
			if deployment.APIVersion != "apps/v1" || deployment.Kind != "Deployment" {
				t.Errorf("it is a %s/%s", deployment.APIVersion, deployment.Kind)
			}
			template := deployment.Spec.Template
			if !reflect.DeepEqual(deployment.Spec.Selector.MatchLabels, template.Labels) {
				t.Errorf("the selector %v is not for the pod's labels %v", deployment.Spec.Selector.MatchLabels, template.Labels)
			}
			checkSidecar(t, template.Spec)
		})
	}
}

// checkSidecar checks what the types alone do not tell.
func checkSidecar(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	if pod.HostNetwork || pod.HostPID {
		t.Error("a sidecar needs nothing of the host's")
	}
	step, bridge := pod.InitContainers[0], pod.InitContainers[1]
	if step.RestartPolicy != nil {
		t.Errorf("%s does not end: the pod would wait for it for ever", step.Name)
	}
	if bridge.RestartPolicy == nil || *bridge.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Errorf("%s is no sidecar", bridge.Name)
	}
	for _, probe := range []*corev1.Probe{bridge.StartupProbe, bridge.LivenessProbe} {
		// The kubelet asks from the node, where the pod's loopback is another.
		if probe == nil || probe.Exec == nil || strings.Join(probe.Exec.Command, " ") != "/imds-bridge ready" {
			t.Errorf("probe %+v", probe)
		}
	}
	volumes := map[string]bool{}
	for _, volume := range pod.Volumes {
		volumes[volume.Name] = true
	}
	for _, container := range pod.InitContainers {
		security := container.SecurityContext
		if security == nil || security.Privileged != nil || *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem ||
			security.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s may do more than it needs: %+v", container.Name, security)
		}
		if asRoot := *security.RunAsUser == 0; asRoot == *security.RunAsNonRoot {
			t.Errorf("%s is user %d, and runAsNonRoot is %t", container.Name, *security.RunAsUser, *security.RunAsNonRoot)
		}
		for _, mount := range container.VolumeMounts {
			if !volumes[mount.Name] {
				t.Errorf("%s mounts %s, which is no volume of the pod", container.Name, mount.Name)
			}
		}
	}
	checkOrderOfVariables(t, bridge.Env)
}

// checkOrderOfVariables: $(NAME) stands for a variable that was set before, and else for itself.
func checkOrderOfVariables(t *testing.T, variables []corev1.EnvVar) {
	t.Helper()
	set := map[string]bool{}
	for _, variable := range variables {
		rest := variable.Value
		for {
			_, after, found := strings.Cut(rest, "$(")
			if !found {
				break
			}
			name, more, _ := strings.Cut(after, ")")
			if !set[name] {
				t.Errorf("%s uses $(%s), which is not set before", variable.Name, name)
			}
			rest = more
		}
		set[variable.Name] = true
	}
}
