// Package schema holds the files below deploy/ against the API types that will read them. It is a module
// of its own, so that those types are no dependency of the bridge.
package schema

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	kubejson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

func TestKubernetesManifestIsOfTheAPI(t *testing.T) {
	t.Parallel()
	daemonSet := new(appsv1.DaemonSet)
	role, binding := new(rbacv1.ClusterRole), new(rbacv1.ClusterRoleBinding)
	kinds := map[string]any{
		"v1/Namespace":      new(corev1.Namespace),
		"v1/ServiceAccount": new(corev1.ServiceAccount),
		"rbac.authorization.k8s.io/v1/ClusterRole":        role,
		"rbac.authorization.k8s.io/v1/ClusterRoleBinding": binding,
		"apps/v1/DaemonSet":                               daemonSet,
	}
	for _, document := range strings.Split(read(t, "../kubernetes/daemonset.yaml"), "\n---\n") {
		var head struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Fatal(err)
		}
		kind := head.APIVersion + "/" + head.Kind
		object, ok := kinds[kind]
		if !ok {
			t.Fatalf("a %s that nobody expects, or a second one", kind)
		}
		asJSON, err := yaml.YAMLToJSONStrict([]byte(document))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		// As the API server reads it: the case of a letter counts too.
		strict, err := kubejson.UnmarshalStrict(asJSON, object)
		if err := errors.Join(append(strict, err)...); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		delete(kinds, kind)
	}
	for kind := range kinds {
		t.Errorf("no %s", kind)
	}
	checkDaemonSet(t, daemonSet)
	checkRole(t, role, binding, daemonSet)
}

// checkRole wants the account of the bridge to be bound to the role, which lets it change nothing.
func checkRole(t *testing.T, role *rbacv1.ClusterRole, binding *rbacv1.ClusterRoleBinding, set *appsv1.DaemonSet) {
	t.Helper()
	for _, rule := range role.Rules {
		for _, verb := range rule.Verbs {
			if verb != "get" && verb != "list" && verb != "watch" {
				t.Errorf("the bridge may %s %v", verb, rule.Resources)
			}
		}
	}
	to := rbacv1.Subject{Kind: "ServiceAccount", Name: set.Spec.Template.Spec.ServiceAccountName, Namespace: set.Namespace}
	if binding.RoleRef.Kind != "ClusterRole" || binding.RoleRef.Name != role.Name || !slices.Contains(binding.Subjects, to) {
		t.Errorf("%+v of %+v is not of the pod's account", binding.RoleRef, binding.Subjects)
	}
	if mounts := set.Spec.Template.Spec.AutomountServiceAccountToken; mounts == nil || !*mounts {
		t.Error("the account's token is not in the pod")
	}
}

// checkDaemonSet checks what the types alone do not tell.
func checkDaemonSet(t *testing.T, set *appsv1.DaemonSet) {
	t.Helper()
	pod := set.Spec.Template
	if !reflect.DeepEqual(set.Spec.Selector.MatchLabels, pod.Labels) {
		t.Errorf("the selector %v is not for the pod's labels %v", set.Spec.Selector.MatchLabels, pod.Labels)
	}
	if !pod.Spec.HostNetwork || !pod.Spec.HostPID {
		t.Error("the bridge needs the host's network and process identifiers")
	}
	for _, container := range pod.Spec.Containers {
		if security := container.SecurityContext; security.Privileged != nil && *security.Privileged {
			t.Errorf("container %s is privileged", container.Name)
		}
		for _, probe := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe} {
			if probe.HTTPGet.Host != "127.0.0.1" {
				t.Errorf("a probe of %s asks %q: the bridge answers on loopback alone", container.Name, probe.HTTPGet.Host)
			}
		}
	}
}

// The SDK's own serializer is the judge: what it sends for the file must be the file.
func TestECSTasksAreOfTheAPI(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"daemon-task", "sidecar-task"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			task := checkECSTask(t, read(t, "../ecs/"+name+".json"))
			checkTask(t, task)
			checkOrder(t, task)
		})
	}
}

func checkECSTask(t *testing.T, file string) *ecs.RegisterTaskDefinitionInput {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(file))
	decoder.DisallowUnknownFields()
	var task ecs.RegisterTaskDefinitionInput
	if err := decoder.Decode(&task); err != nil {
		t.Fatal(err)
	}
	var sent string
	client := ecs.New(ecs.Options{
		Region:      "eu-central-1",
		Credentials: aws.AnonymousCredentials{},
		HTTPClient: clientFunc(func(request *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(request.Body)
			sent = string(body)
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}"))}, err
		}),
	})
	if _, err := client.RegisterTaskDefinition(context.Background(), &task); err != nil {
		t.Fatal(err)
	}
	if got, want := decode(t, sent), decode(t, file); !reflect.DeepEqual(got, want) {
		t.Errorf("the SDK sends\n%v\nfor the file\n%v", got, want)
	}
	return &task
}

// checkTask holds the words of the file against those that the API knows.
func checkTask(t *testing.T, task *ecs.RegisterTaskDefinitionInput) {
	t.Helper()
	known(t, task.NetworkMode, task.NetworkMode.Values())
	if task.PidMode != "" {
		known(t, task.PidMode, task.PidMode.Values())
	}
	for _, compatibility := range task.RequiresCompatibilities {
		known(t, compatibility, compatibility.Values())
	}
	volumes := map[string]bool{}
	for _, volume := range task.Volumes {
		volumes[*volume.Name] = true
	}
	for _, container := range task.ContainerDefinitions {
		for _, limit := range container.Ulimits {
			known(t, limit.Name, limit.Name.Values())
		}
		for _, mount := range container.MountPoints {
			if !volumes[*mount.SourceVolume] {
				t.Errorf("container %s mounts %s, which is no volume of the task", *container.Name, *mount.SourceVolume)
			}
		}
		if container.LinuxParameters == nil {
			continue
		}
		for _, capability := range container.LinuxParameters.Capabilities.Add {
			// Which names the API takes is said in the comment of types.KernelCapabilities only.
			if capability == "BPF" || capability == "PERFMON" {
				t.Errorf("the API does not take the capability %s", capability)
			}
		}
	}
}

// checkOrder looks at what containers wait for. The API takes a file that can never start.
func checkOrder(t *testing.T, task *ecs.RegisterTaskDefinitionInput) {
	t.Helper()
	containers := map[string]types.ContainerDefinition{}
	for _, container := range task.ContainerDefinitions {
		containers[*container.Name] = container
	}
	for name, container := range containers {
		for _, dependency := range container.DependsOn {
			known(t, dependency.Condition, dependency.Condition.Values())
			other, ok := containers[*dependency.ContainerName]
			switch {
			case !ok:
				t.Errorf("%s waits for %s, which is none of the task's", name, *dependency.ContainerName)
			case dependency.Condition == types.ContainerConditionHealthy && other.HealthCheck == nil:
				t.Errorf("%s waits for the health of %s, which has no check", name, *other.Name)
			case dependency.Condition == types.ContainerConditionSuccess && *other.Essential:
				t.Errorf("%s waits for the end of %s, with which the task would end", name, *other.Name)
			}
		}
	}
}

func known[T comparable](t *testing.T, value T, values []T) {
	t.Helper()
	for _, v := range values {
		if v == value {
			return
		}
	}
	t.Errorf("%v is none of %v", value, values)
}

type clientFunc func(*http.Request) (*http.Response, error)

func (f clientFunc) Do(request *http.Request) (*http.Response, error) { return f(request) }

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func decode(t *testing.T, document string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(document), &value); err != nil {
		t.Fatal(err)
	}
	return value
}
