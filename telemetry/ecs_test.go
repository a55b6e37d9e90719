package telemetry

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const (
	ecsContainerDocument = `{
		"DockerId": "ea32192c8553fbff06c9340478a2ff089b2bb5646fb718b4ee206641c9086d66",
		"Name": "imds-bridge",
		"DockerName": "ecs-app-24-imds-bridge-cca48e8dcadd97805600",
		"Image": "111122223333.dkr.ecr.us-west-2.amazonaws.com/imds-bridge:0.1.0",
		"ImageID": "sha256:d691691e9652791a60114e67b365688d20d19940dde7c4736ea30e660d8d3553",
		"Labels": {"com.amazonaws.ecs.cluster": "default"},
		"DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
		"Limits": {"CPU": 10, "Memory": 128},
		"CreatedAt": "2020-10-02T00:15:07.620912337Z", "Type": "NORMAL",
		"ContainerARN": "arn:aws:ecs:us-west-2:111122223333:container/0206b271-b33f-47ab-86c6-a0ba208a70a9",
		"Networks": [{"NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.2.100"]}]
	}`
	ecsTaskDocument = `{
		"Cluster": "default",
		"TaskARN": "arn:aws:ecs:us-west-2:111122223333:task/default/158d1c8083dd49d6b527399fd6414f5c",
		"Family": "app", "ServiceName": "app", "Revision": "26",
		"DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
		"PullStartedAt": "2020-10-02T00:43:06.202617438Z",
		"AvailabilityZone": "us-west-2d", "VPCID": "vpc-1234567890abcdef0", "LaunchType": "EC2",
		"Containers": [{"Name": "app", "Limits": {"CPU": 10}}]
	}`
)

// serveECS is the endpoint of one container. Nil documents are not there.
func serveECS(t *testing.T, container, task http.HandlerFunc) {
	t.Helper()
	mux := http.NewServeMux()
	const path = "/v4/0f1e2d3c-1234"
	for suffix, handler := range map[string]http.HandlerFunc{"": container, "/task": task} {
		if handler != nil {
			mux.HandleFunc(path+suffix, handler)
		}
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Setenv(ecsVariable, server.URL+path)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // not for this
}

func document(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

func TestTaskOfECSIsInTheResource(t *testing.T) {
	serveECS(t, document(ecsContainerDocument), document(ecsTaskDocument))
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "container.name=mine") // wins
	tel, logs := start(t)
	tel.Logger().Info("starting", "resource", tel.Resource())
	shutdown(t, tel, time.Second)

	want := map[string]string{
		"aws.ecs.cluster.arn":     "arn:aws:ecs:us-west-2:111122223333:cluster/default",
		"aws.ecs.container.arn":   "arn:aws:ecs:us-west-2:111122223333:container/0206b271-b33f-47ab-86c6-a0ba208a70a9",
		"aws.ecs.launchtype":      "ec2",
		"aws.ecs.task.arn":        "arn:aws:ecs:us-west-2:111122223333:task/default/158d1c8083dd49d6b527399fd6414f5c",
		"aws.ecs.task.family":     "app",
		"aws.ecs.task.id":         "158d1c8083dd49d6b527399fd6414f5c",
		"aws.ecs.task.revision":   "26",
		"cloud.account.id":        "111122223333",
		"cloud.availability_zone": "us-west-2d",
		"cloud.platform":          "aws_ecs",
		"cloud.provider":          "aws",
		"cloud.region":            "us-west-2",
		"cloud.resource_id":       "arn:aws:ecs:us-west-2:111122223333:container/0206b271-b33f-47ab-86c6-a0ba208a70a9",
		"container.id":            "ea32192c8553fbff06c9340478a2ff089b2bb5646fb718b4ee206641c9086d66",
		"container.image.id":      "sha256:d691691e9652791a60114e67b365688d20d19940dde7c4736ea30e660d8d3553",
		"container.image.name":    "111122223333.dkr.ecr.us-west-2.amazonaws.com/imds-bridge",
		"container.name":          "mine",
		"service.name":            "imds-bridge",
	}
	lines := logs.lines(t)
	if len(lines) != 1 {
		t.Fatalf("log:\n%s", logs)
	}
	got := lines[0]["resource"].(map[string]any)
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s is %v, want %s", key, got[key], value)
		}
	}
	for key := range got {
		if strings.HasPrefix(key, "telemetry.sdk.") {
			t.Errorf("%s is the same in every line", key)
		}
	}
}

// A task is described as far as it can be, and a start goes on.
func TestEndpointOfECSInTrouble(t *testing.T) {
	hangs := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, c := range map[string]struct {
		container, task http.HandlerFunc
		known           string
	}{
		"container hangs":   {hangs, document(ecsTaskDocument), "aws.ecs.task.id"},
		"task is not there": {document(ecsContainerDocument), nil, "container.id"},
		"no JSON":           {document(ecsContainerDocument), document("<html>"), "container.id"},
		"another task":      {document(ecsContainerDocument), document(`{"TaskARN": 1}`), "container.id"},
		"no ARN":            {document(ecsContainerDocument), document(`{"TaskARN": "x"}`), "container.id"},
		"leads elsewhere": {document(ecsContainerDocument), func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		}, "container.id"},
	} {
		t.Run(name, func(t *testing.T) {
			serveECS(t, c.container, c.task)
			begin := time.Now()
			tel, logs := start(t)
			if took := time.Since(begin); took > ecsPatience+200*time.Millisecond {
				t.Errorf("Start took %v", took)
			}
			known := false
			for _, a := range tel.Resource().Group() {
				known = known || a.Key == c.known
				if a.Value.String() == "" {
					t.Errorf("%s is empty", a.Key)
				}
			}
			if !known {
				t.Errorf("%s is not known: %v", c.known, tel.Resource())
			}
			shutdown(t, tel, time.Second)
			if name != "no ARN" && !strings.Contains(logs.String(), "ECS") {
				t.Errorf("nothing is said: %s", logs)
			}
		})
	}
}

// An endpoint that takes no connections holds a start up no longer than one that does not answer.
func TestEndpointOfECSThatIsNotReachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	t.Setenv(ecsVariable, "http://"+l.Addr().String()+"/v4/x")
	begin := time.Now()
	tel, logs := start(t)
	if took := time.Since(begin); took > ecsPatience {
		t.Errorf("Start took %v", took)
	}
	shutdown(t, tel, time.Second)
	if !strings.Contains(logs.String(), "connection refused") {
		t.Errorf("log: %s", logs)
	}
}
