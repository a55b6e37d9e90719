package report

import (
	"log/slog"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/software"
)

// pairs are names and values of text; those without a value are left out.
type pairs []struct{ name, value string }

func (p pairs) log() (a []slog.Attr) {
	for _, pair := range p {
		if pair.value != "" {
			a = append(a, slog.String(pair.name, pair.value))
		}
	}
	return a
}

func (p pairs) span() (a []attribute.KeyValue) {
	for _, pair := range p {
		if pair.value != "" {
			a = append(a, attribute.String(pair.name, pair.value))
		}
	}
	return a
}

// group is a group of the log line; none where nothing is known.
func group(name string, p pairs) []slog.Attr {
	a := p.log()
	if len(a) == 0 {
		return nil
	}
	return []slog.Attr{{Key: name, Value: slog.GroupValue(a...)}}
}

// whoValues are what the log says of a caller besides its process.
func whoValues(who person) (a []slog.Attr) {
	a = pairs{
		{"interpreter", who.Program.Interpreter},
		{"script", who.Program.Script},
		{"service", who.Service},
	}.log()
	if p := who.Place; p != nil {
		a = append(a, pairs{
			{"unit", p.Unit}, {"slice", p.Slice}, {"session", p.Session}, {"snap", p.Snap},
			{"outer_container_id", p.Outer},
		}.log()...)
	}
	if by := who.Starter; by.Kind != "" {
		a = append(a, slog.Group("started_by", "kind", by.Kind, "name", by.Name, "pid", by.PID))
	}
	if s := who.Software; s != nil {
		a = append(a, group("package", packagePairs(s, "manager", "name", "version"))...)
	}
	if c := who.Container; c != nil {
		a = append(a, group("container", pairs{
			{"name", c.Name}, {"image", c.Image.String()}, {"image_id", c.Image.ID},
		})...)
		a = append(a, taskValues(c.Task)...)
	}
	a = append(a, podValues(podOf(who))...)
	return append(a, group("owner", pairs{{"name", who.Owner.Name}, {"from", who.Owner.From}})...)
}

// runtimeOf is the container's runtime. The cgroup of a pod's container may not name it.
func runtimeOf(who person) string {
	if who.ContainerRuntime == "" && who.Container != nil {
		return who.Container.Runtime
	}
	return who.ContainerRuntime
}

// podOf is the pod as far as it is known: by its UID alone, which the cgroup has, where no source told of it.
func podOf(who person) *container.Pod {
	if c := who.Container; c != nil && c.Pod != nil {
		return c.Pod
	}
	if p := who.Place; p != nil && p.PodUID != "" {
		return &container.Pod{UID: p.PodUID}
	}
	return nil
}

func podValues(p *container.Pod) []slog.Attr {
	if p == nil {
		return nil
	}
	return group("pod", pairs{
		{"name", p.Name}, {"namespace", p.Namespace}, {"uid", p.UID}, {"container", p.Container},
		{"service_account", p.ServiceAccount}, {"node", p.Node},
		{"workload_kind", p.Workload.Kind}, {"workload", p.Workload.Name},
	})
}

func taskValues(t *container.Task) []slog.Attr {
	if t == nil {
		return nil
	}
	return group("task", pairs{
		{"arn", t.ARN}, {"cluster", t.Cluster}, {"family", t.Family}, {"revision", t.Revision},
		{"service", t.Service}, {"container", t.Container},
	})
}

// packagePairs are of the package of the script, or else of the executable.
func packagePairs(s *software.Software, manager, name, version string) pairs {
	p := s.Package
	if s.ScriptPackage.Name != "" {
		p = s.ScriptPackage
	}
	return pairs{{manager, p.Manager}, {name, p.Name}, {version, p.Version}}
}

// whoAttributes are the same for a span, with the names of the semantic conventions where there are any.
func whoAttributes(who person) []attribute.KeyValue {
	a := pairs{
		{"imds.caller.interpreter", who.Program.Interpreter},
		{"imds.caller.script", who.Program.Script},
		{"imds.caller.started_by.kind", who.Starter.Kind},
		{"imds.caller.started_by.name", who.Starter.Name},
		{"imds.owner.name", who.Owner.Name},
		{"imds.owner.from", who.Owner.From},
		{string(semconv.ServicePeerNameKey), who.Service},
	}.span()
	if p := who.Place; p != nil {
		a = append(a, pairs{
			{"imds.caller.systemd.unit", p.Unit}, {"imds.caller.systemd.slice", p.Slice},
			{"imds.caller.session", p.Session}, {"imds.caller.snap", p.Snap},
		}.span()...)
	}
	if s := who.Software; s != nil {
		a = append(a, packagePairs(s, "imds.caller.package.manager", "imds.caller.package.name", "imds.caller.package.version").span()...)
	}
	if c := who.Container; c != nil {
		a = append(a, containerAttributes(c)...)
	}
	if p := podOf(who); p != nil {
		a = append(a, podAttributes(p)...)
	}
	return a
}

func containerAttributes(c *container.Container) []attribute.KeyValue {
	a := pairs{
		{string(semconv.ContainerNameKey), c.Name},
		{string(semconv.ContainerImageNameKey), c.Image.Name},
		{string(semconv.ContainerImageIDKey), c.Image.ID},
	}.span()
	if c.Image.Tag != "" {
		a = append(a, semconv.ContainerImageTags(c.Image.Tag))
	}
	if c.Image.Digest != "" {
		a = append(a, semconv.ContainerImageRepoDigests(c.Image.Name+"@"+c.Image.Digest))
	}
	if t := c.Task; t != nil {
		a = append(a, pairs{
			{string(semconv.AWSECSClusterARNKey), clusterARN(t)},
			{string(semconv.AWSECSTaskARNKey), t.ARN},
			{string(semconv.AWSECSTaskFamilyKey), t.Family},
			{string(semconv.AWSECSTaskRevisionKey), t.Revision},
			{"aws.ecs.service.name", t.Service},
			{"aws.ecs.container.name", t.Container},
		}.span()...)
	}
	return a
}

// clusterARN is made of the name that ECS tells, and of the task's: a cluster is in its tasks' region and account.
func clusterARN(t *container.Task) string {
	if strings.HasPrefix(t.Cluster, "arn:") {
		return t.Cluster
	}
	task := strings.SplitN(t.ARN, ":", 6) // arn:aws:ecs:<region>:<account>:task/…
	if t.Cluster == "" || len(task) < 6 {
		return ""
	}
	return strings.Join(task[:5], ":") + ":cluster/" + t.Cluster
}

// workloads are the attributes that name what made a pod.
var workloads = map[string]attribute.Key{
	"Deployment":  semconv.K8SDeploymentNameKey,
	"ReplicaSet":  semconv.K8SReplicaSetNameKey,
	"StatefulSet": semconv.K8SStatefulSetNameKey,
	"DaemonSet":   semconv.K8SDaemonSetNameKey,
	"Job":         semconv.K8SJobNameKey,
	"CronJob":     semconv.K8SCronJobNameKey,
}

func podAttributes(p *container.Pod) []attribute.KeyValue {
	a := pairs{
		{string(semconv.K8SPodNameKey), p.Name},
		{string(semconv.K8SPodUIDKey), p.UID},
		{string(semconv.K8SNamespaceNameKey), p.Namespace},
		{string(semconv.K8SContainerNameKey), p.Container},
		{string(semconv.K8SNodeNameKey), p.Node},
		{"imds.caller.k8s.service_account", p.ServiceAccount},
	}.span()
	if p.Workload.Name == "" {
		return a
	}
	if key, ok := workloads[p.Workload.Kind]; ok {
		return append(a, key.String(p.Workload.Name))
	}
	return append(a, attribute.String("imds.caller.k8s.workload.kind", p.Workload.Kind), attribute.String("imds.caller.k8s.workload.name", p.Workload.Name))
}
