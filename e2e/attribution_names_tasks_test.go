package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// toldTask is what a log line says of its caller's task.
type toldTask struct{ ARN, Cluster, Family, Revision, Service, Container string }

func (a attributed) task(t *testing.T) toldTask {
	t.Helper()
	var line struct{ Caller struct{ Task toldTask } }
	if err := json.Unmarshal([]byte(a.raw), &line); err != nil {
		t.Fatal(err)
	}
	return line.Caller.Task
}

// A task's v1 call is told with all that ECS knows of it: what the agent's labels say at once, what only its
// introspection endpoint says as soon as that answers. The containers are Docker's, in cgroups as ECS makes
// them; the agent is a server that answers in the published format.
func TestAttributionNamesTasks(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	d := i.startDocker(t)
	d.load(t, callerClient(t))
	c := i.startCollector(t)
	const task, arn = "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "arn:aws:ecs:us-west-2:123456789012:task/"
	const label = "--label=com.amazonaws.ecs."
	agent := d.orchestrate(t, "ecs", "ecstasks.slice")
	web := agent.call(t, "ecs/"+task, label+"cluster=prod", label+"task-arn="+arn+"prod/"+task, label+"container-name=app",
		label+"task-definition-family=web", label+"task-definition-version=7")
	batch := agent.call(t, "ecstasks.slice/ecstasks-1810e302-eaea-4da9-a638-097bea534740.slice") // its labels were lost
	b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup, env: c.env(), flags: []string{
		"--log.level=info", "--attribution.ecs=on", "--attribution.docker=" + d.socket, "--attribution.cri=", "--attribution.kubernetes=off"}})

	isOf := func(want toldTask, owner string) func(attributed) bool {
		return func(a attributed) bool {
			return a.task(t) == want && a.Caller.Owner.Name == owner && a.Caller.Owner.From == "ecs.family"
		}
	}
	app := toldTask{ARN: arn + "prod/" + task, Cluster: "prod", Family: "web", Revision: "7", Container: "app"}
	b.awaitCall(t, web, isOf(app, "web"))
	b.awaitCall(t, batch, func(a attributed) bool { return a.Caller.Container.Image == "caller:latest" && a.task(t) == toldTask{} })

	i.startECSAgent(t, web, batch)
	worker := toldTask{ARN: arn + "1810e302-eaea-4da9-a638-097bea534740", Cluster: "prod", Family: "batch", Revision: "12", Container: "worker"}
	for of, want := range map[contained]toldTask{web: app, batch: worker} {
		line := b.awaitCall(t, of, isOf(want, want.Family))
		awaitSpan(t, c, line, map[string]any{
			"container.id": of.id, "aws.ecs.cluster.arn": "arn:aws:ecs:us-west-2:123456789012:cluster/prod",
			"aws.ecs.task.arn": want.ARN, "aws.ecs.task.family": want.Family, "aws.ecs.task.revision": want.Revision,
			"aws.ecs.container.name": want.Container, "imds.owner.name": want.Family,
		})
		of.checkServed(t)
	}
}

// startECSAgent has the agent of the ECS package's tests answer, for containers of the tasks web and batch.
func (i *instance) startECSAgent(t *testing.T, web, batch contained) {
	t.Helper()
	listener, err := i.Host().Listen("tcp", "127.0.0.1:51678")
	if err != nil {
		t.Fatal(err)
	}
	answers := make(map[string]string)
	for path, file := range map[string]string{"/v1/metadata": "metadata.json", "/v1/tasks": "tasks.json"} {
		text, err := os.ReadFile("../caller/container/ecs/testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		answers[path] = strings.NewReplacer(strings.Repeat("0", 63)+"1", web.id, strings.Repeat("0", 63)+"3", batch.id).Replace(string(text))
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := answers[r.URL.Path]
		if !ok || r.Method != http.MethodGet {
			t.Errorf("the ECS agent is asked for %s %s", r.Method, r.URL)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(text))
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
}
