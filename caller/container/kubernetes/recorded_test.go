package kubernetes

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
)

// The answers that these tests replay are those of a real kube-apiserver, whose version is in
// testdata/version.txt (1.34.2). What a kubelet and controllers would write there, TestRealServer wrote; the
// pods of list-kubelet.json are those of real controllers and a real kubelet of the same version, with
// containerd 1.6.20. `make test-kubernetes` tests the source against all of them, and makes the answers anew
// with KUBERNETES=-record.

func TestPodsAreToldOf(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	may := make(chan struct{})
	f.watches = handlers(lines("watch.jsonl", may), hang)
	s := f.source(io.Discard)
	if c, err := s.Inspect(t.Context(), id(1)); !errors.Is(err, container.ErrUnknown) {
		t.Errorf("before the watch: %+v, %v", c, err)
	}
	l, _ := watched(t, s)
	l.awaitReady(t)
	awaitShop(t, l)
	if c, err := s.Inspect(t.Context(), id(5)); err != nil || c.Pod.Name != "db-0" {
		t.Errorf("%+v, %v", c, err)
	}
	close(may)
	awaitChanges(t, l)
	for _, n := range []int{5, 13, 99} {
		if c, err := s.Inspect(t.Context(), id(n)); !errors.Is(err, container.ErrUnknown) {
			t.Errorf("%d: %+v, %v", n, c, err)
		}
	}
	l.await(t, "watched again", func() bool { return len(f.asked(true)) == 3 })
	requests := f.asked(true)
	for n, want := range []string{
		"fieldSelector=spec.nodeName%3Dnode-1&resourceVersion=0",
		"allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dnode-1&resourceVersion=" + listVersion(t, "list.json") + "&timeoutSeconds=",
		"allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dnode-1&resourceVersion=" + bookmark(t, "watch.jsonl") + "&timeoutSeconds=",
	} {
		if got := requests[n].URL.RawQuery; !strings.HasPrefix(got, want) {
			t.Errorf("%s", got)
		}
	}
	if n := len(f.asked(false)); n != 4 {
		t.Errorf("%d questions about 4 owners", n)
	}
}

func listVersion(t *testing.T, file string) string {
	t.Helper()
	version, err := readList(strings.NewReader(string(recorded(file))), func(*podObject) {})
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// bookmark is the version that the last line of a watch has.
func bookmark(t *testing.T, file string) string {
	t.Helper()
	text := strings.TrimSpace(string(recorded(file)))
	var event struct {
		Type   string
		Object struct{ Metadata metadata }
	}
	if err := json.Unmarshal([]byte(text[strings.LastIndexByte(text, '\n')+1:]), &event); err != nil || event.Type != "BOOKMARK" {
		t.Fatalf("%v: no bookmark", err)
	}
	return event.Object.Metadata.ResourceVersion
}

func TestTwoPodsOnTheHostNetworkAreToldApart(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.source(io.Discard)
	l, _ := watched(t, s)
	l.awaitReady(t)
	d := container.Open(slog.New(slog.DiscardHandler), s)
	defer d.Close()
	l.await(t, "known", func() bool { return d.States()[0].Ready })
	for n, name := range map[int]string{3: "agent", 4: "resolver"} {
		l.mu.Lock()
		uid := l.here[id(n)].Pod.UID
		l.mu.Unlock()
		slice := "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice"
		of := func(path string) *container.Container {
			place := caller.ParseCgroup(path + "\n")
			return d.Get(place.ContainerID, place.Place.PodUID)
		}
		if c := of(slice + "/cri-containerd-" + id(n) + ".scope"); c == nil || c.Pod.Workload.Name != name || !c.Pod.HostNetwork || c.Pod.Container != "main" {
			t.Errorf("%s by its container: %+v", name, c)
		}
		// A container that was not told of yet, and one whose id is not to be seen.
		for _, below := range []string{"/cri-containerd-" + id(100+n) + ".scope", ""} {
			if c := of(slice + below); c == nil || c.Pod.Workload.Name != name || c.Pod.Container != "" {
				t.Errorf("%s by its pod: %+v", name, c)
			}
		}
		// The cgroup of a static pod has not the UID that the API server knows.
		if c := of("0::/kubepods/burstable/pod" + staticUID + "/" + id(200+n)); c == nil || c.Pod.Name != "kube-proxy-node-1" {
			t.Errorf("static pod: %+v", c)
		}
	}
}

// form is what is told of the pods of list-kubelet.json. What owns their owners was not recorded.
var form = regexp.MustCompile(`^(web-[0-9a-f]+-\w+ app ReplicaSet web-[0-9a-f]+|(agent|resolver)-\w+ main DaemonSet (agent|resolver)|` +
	`report-manual-\w+ job Job report-manual|static-node-1 late Node node-1)$`)

func TestPodsOfARealKubelet(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.lists = handlers(replay("list-kubelet.json"))
	l, _ := watched(t, f.source(io.Discard))
	l.awaitReady(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.here {
		told := c.Pod.Name + " " + c.Pod.Container + " " + c.Pod.Workload.Kind + " " + c.Pod.Workload.Name
		if !form.MatchString(told) || c.Runtime != "containerd" || c.Image.String() != "test.local/caller:1" || !strings.HasPrefix(c.Image.ID, "sha256:") {
			t.Errorf("%s: %+v", told, c)
		}
		if onHost := !strings.HasPrefix(told, "web") && !strings.HasPrefix(told, "report"); c.Pod.HostNetwork != onHost {
			t.Errorf("%s is on the host's network: %t", told, c.Pod.HostNetwork)
		}
		if hash := c.Pod.Annotations[configHash]; hash != "" && (l.pods[hash] == nil || l.pods[hash].Name != c.Pod.Name || c.Pod.Name != "static-node-1") {
			t.Errorf("%s is not known by %s", told, hash)
		}
	}
	if len(l.here) != 5 || len(l.pods) != 6 { // one of them by two UIDs
		t.Errorf("%d containers, %d UIDs", len(l.here), len(l.pods))
	}
}

func TestVersionThatIsTooOld(t *testing.T) {
	t.Parallel()
	for name, expired := range map[string]http.HandlerFunc{
		"while it is watched": replay("expired.jsonl"), // as it was recorded
		"at once":             say(http.StatusGone, `{"kind":"Status","code":410}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.lists = handlers(replay("list.json"), replay("list-later.json"))
			f.watches = handlers(expired, hang)
			l, _ := watched(t, f.source(io.Discard))
			for _, n := range []int{1, 5} {
				l.await(t, "what went meanwhile is gone", func() bool { return l.gone[id(n)] })
			}
			l.await(t, "restarted", func() bool { return l.here[id(14)] != nil })
			l.await(t, "watched", func() bool { return len(f.asked(true)) == 4 })
			l.mu.Lock()
			if l.ready != 1 || l.gone[id(3)] || l.count[id(3)] != 1 {
				t.Errorf("ready %d times, gone %t, told %d times", l.ready, l.gone[id(3)], l.count[id(3)])
			}
			l.mu.Unlock()
			if query := f.asked(true)[2].URL.Query(); query.Has("resourceVersion") {
				t.Errorf("what is in the server's cache may be older still: %s", query)
			}
		})
	}
}

func TestPodsMayNotBeRead(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.lists = handlers(refuse(http.StatusForbidden, "forbidden.json"))
	_, end := watched(t, f.source(io.Discard))
	const want = `list pods of node node-1: pods is forbidden: User "system:serviceaccount:imds-bridge:denied" cannot list resource "pods" in API group "" ` +
		`at the cluster scope (needs list and watch on pods in the ClusterRole of deploy/kubernetes)`
	if err := end(); err == nil || err.Error() != want {
		t.Error(err)
	}
}

func TestTokenIsUnknown(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.lists = handlers(refuse(http.StatusUnauthorized, "unauthorized.json"))
	_, end := watched(t, f.source(io.Discard))
	if err := end(); err == nil || !strings.Contains(err.Error(), "does not know the token in "+f.dir) {
		t.Error(err)
	}
}

func TestReplicaSetsMayNotBeRead(t *testing.T) {
	t.Parallel()
	const path = "/apis/apps/v1/namespaces/shop/replicasets/web-6d4cf56db6"
	f := newFake(t)
	f.setOwner(path, refuse(http.StatusForbidden, "forbidden-replicaset.json"))
	var log lockedBuffer
	s := f.source(&log)
	s.times.denied = 50 * time.Millisecond
	l, _ := watched(t, s)
	workload := func(want container.Workload) func() bool {
		return func() bool {
			web := l.here[id(1)]
			return web != nil && web.Pod.Workload == want
		}
	}
	l.await(t, "asked twice", func() bool {
		n := 0
		for _, r := range f.asked(false) {
			if r.URL.Path == path {
				n++
			}
		}
		return n >= 2
	})
	l.await(t, "what is known is told", workload(container.Workload{Kind: "ReplicaSet", Name: "web-6d4cf56db6"}))
	if text := log.String(); strings.Count(text, "needs get on replicasets in the ClusterRole") != 1 {
		t.Error(text)
	}
	f.setOwner(path, replay("replicaset-web.json"))
	l.await(t, "the Deployment is known", workload(container.Workload{Kind: "Deployment", Name: "web"}))
}
