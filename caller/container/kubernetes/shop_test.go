package kubernetes

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

// The shop is what was recorded: see TestRecord, which makes it.

// staticUID is the one by which the kubelet knows the shop's static pod.
const staticUID = "4f2d8bb4dff2a4bd2e0e4d5f8d6ab0c1"

// id is that of a container.
func id(n int) string { return fmt.Sprintf("%064x", n) }

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n<<8) }

// awaitShop waits until all of the shop was told of rightly.
func awaitShop(t *testing.T, l *told) {
	t.Helper()
	for n, want := range map[int]string{
		1:  "web-6d4cf56db6-x7k2p app containerd nginx:latest@" + digest(1) + " Deployment web",
		2:  "web-6d4cf56db6-x7k2p migrate containerd registry:5000/shop/migrate:v2@" + digest(2) + " Deployment web",
		3:  "agent-9xk2m main containerd agent:1@" + digest(3) + " DaemonSet agent",
		4:  "resolver-9xk2m main containerd agent:1@" + digest(3) + " DaemonSet resolver",
		5:  "db-0 postgres cri-o postgres:17@" + digest(5) + " StatefulSet db",
		6:  "report-29384010-l9xvw job containerd report:3 CronJob report",
		7:  "import-l9xvw job containerd report:3 Job import",
		8:  "kube-proxy-node-1 kube-proxy containerd registry.test/kube-proxy:v1.34.2@" + digest(8) + " Node node-1",
		9:  "canary-77f9-abcde app docker shop/canary:4@" + digest(9) + " Rollout canary",
		10: "bare sh containerd busybox:1@" + digest(10) + "  ",
		11: "bare debugger containerd debian:13@" + digest(11) + "  ",
	} {
		l.await(t, fmt.Sprintf("told of %d: %s", n, want), func() bool {
			c := l.here[id(n)]
			return c != nil && summary(c) == want && l.gone[id(n)] == (n == 2)
		})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.here) != 11 {
		t.Errorf("told of %d containers", len(l.here))
	}
	web := l.here[id(1)]
	if p := web.Pod; p.Namespace != "shop" || p.ServiceAccount != "web" || p.Node != "node-1" || p.HostNetwork || len(p.UID) != 36 ||
		p.Labels["team"] != "shop" || p.Annotations["tags.datadoghq.com/service"] != "web" {
		t.Errorf("%+v", p)
	}
	if text := fmt.Sprintf("%+v", web.Pod); strings.Contains(text, "hunter2") {
		t.Errorf("a secret is kept: %s", text)
	}
	if got := l.here[id(6)].Image.ID; got != digest(6) {
		t.Errorf("image %s", got)
	}
	if p := l.pods[staticUID]; p == nil || p.Name != "kube-proxy-node-1" || p.UID != staticUID || l.pods[l.here[id(8)].Pod.UID] == nil {
		t.Errorf("the static pod is not known by the UID of its cgroups: %+v", p)
	}
}

// awaitChanges waits until all that happened in the shop was told of rightly.
func awaitChanges(t *testing.T, l *told) {
	t.Helper()
	for n, what := range map[int]string{1: "first of web", 5: "database", 13: "flash", 15: "second of web"} {
		l.await(t, what+" gone", func() bool { return l.here[id(n)] != nil && l.gone[id(n)] })
	}
	l.await(t, "restarted", func() bool { return l.here[id(14)] != nil && !l.gone[id(14)] })
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, want := range map[int]string{
		1:  "web-6d4cf56db6-x7k2p app containerd nginx:latest@" + digest(1) + " Deployment web",
		13: "flash sh containerd busybox:1@" + digest(10) + "  ",
		14: "web-6d4cf56db6-x7k2p app containerd nginx:latest@" + digest(1) + " Deployment web",
		15: "web-6d4cf56db6-x7k2p app containerd  Deployment web", // its image is not known
	} {
		if got := summary(l.here[id(n)]); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	if n := l.count[id(4)]; n != 1 {
		t.Errorf("told %d times of a container that did not change", n)
	}
}

func summary(c *container.Container) string {
	return strings.Join([]string{c.Pod.Name, c.Pod.Container, c.Runtime, c.Image.String(), c.Pod.Workload.Kind, c.Pod.Workload.Name}, " ")
}

// lockedBuffer is a log.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
