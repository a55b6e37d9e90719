//go:build kubernetes

package kubernetes

import (
	"context"
	"debug/buildinfo"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/container/kubernetes/clustertest"
)

var (
	servers = flag.String("servers", "", "the `directory` with a kube-apiserver: see make test-kubernetes")
	record  = flag.Bool("record", false, "write what the server answers to testdata")
)

type object = clustertest.Object

// cluster is one with nothing but an API server: the test does what controllers and kubelets would.
type cluster struct{ *clustertest.Cluster }

// source is for a service account.
func (c cluster) source(t *testing.T, account string, log io.Writer) *Source {
	t.Helper()
	s, err := New(Options{
		Server: "https://" + c.Address, Node: "node-1", TokenFile: c.Write(account+".token", []byte(c.Token("imds-bridge", account)+"\n")),
		CAFile: c.CAFile(), Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// version is that of the module that the API server was built from: what it says itself is set by its
// makers' own build.
func version(t *testing.T) string {
	t.Helper()
	built, err := buildinfo.ReadFile(filepath.Join(*servers, "kube-apiserver"))
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range append(built.Deps, &built.Main) {
		if module.Path == "k8s.io/kubernetes" {
			return module.Version
		}
	}
	t.Fatal("no k8s.io/kubernetes in it")
	return ""
}

// TestRealServer runs the source against a real API server. With -record it writes the server's answers to
// testdata, which the other tests replay.
func TestRealServer(t *testing.T) {
	c := cluster{clustertest.Start(t, clustertest.Options{Servers: *servers})}
	c.prepare()
	c.openShop()
	var log lockedBuffer
	s := c.source(t, "imds-bridge", &log)
	r := &recorder{t: t, client: connected(t, s)}
	r.save("version.txt", []byte(version(t)+"\n"))
	listed := r.answers()
	denied := &recorder{t: t, client: connected(t, c.source(t, "denied", &log))}
	denied.save("forbidden.json", denied.get(http.StatusForbidden, podsPath, s.podsQuery("0"), "application/json"))
	denied.save("forbidden-replicaset.json", denied.get(http.StatusForbidden, apps[:len(apps)-1]+"/replicasets/web-6d4cf56db6", nil, metadataOnly))

	told, _ := watched(t, s)
	told.awaitReady(t)
	awaitShop(t, told)
	query := s.podsQuery(listed)
	query.Set("watch", "true")
	query.Set("allowWatchBookmarks", "true")
	query.Set("timeoutSeconds", "8") // a bookmark comes before the end
	lines := make(chan []byte)
	go func() { lines <- r.get(http.StatusOK, podsPath, query, "application/json") }()
	time.Sleep(time.Second)
	c.changeShop()
	awaitChanges(t, told)
	r.save("watch.jsonl", <-lines)
	r.save("list-later.json", r.get(http.StatusOK, podsPath, s.podsQuery("0"), "application/json"))

	t.Run("not all may be read", func(t *testing.T) {
		var log lockedBuffer
		s := c.source(t, "pods-only", &log)
		s.times.denied = time.Second
		told, _ := watched(t, s)
		told.await(t, "known by its ReplicaSet", func() bool {
			web := told.inPod("web-6d4cf56db6-x7k2p")["app"]
			return web != nil && web.Pod.Workload == container.Workload{Kind: "ReplicaSet", Name: "web-6d4cf56db6"} && strings.Contains(log.String(), "needs get on replicasets")
		})
		c.Do(http.MethodPatch, "/apis/rbac.authorization.k8s.io/v1/clusterroles/pods-only", object{"rules": []object{
			{"apiGroups": []string{""}, "resources": []string{"pods"}, "verbs": []string{"list", "watch"}},
			{"apiGroups": []string{"apps"}, "resources": []string{"replicasets"}, "verbs": []string{"get"}},
		}})
		told.await(t, "known by its Deployment", func() bool {
			web := told.inPod("web-6d4cf56db6-x7k2p")["app"]
			return web != nil && web.Pod.Workload == container.Workload{Kind: "Deployment", Name: "web"}
		})
	})
	t.Run("no pods may be read", func(t *testing.T) {
		_, end := watched(t, c.source(t, "denied", &log))
		if err := end(); err == nil || !strings.Contains(err.Error(), "needs list and watch on pods") {
			t.Error(err)
		}
	})
	t.Run("the server restarts and has forgotten", func(t *testing.T) {
		told, end := watched(t, s)
		told.awaitReady(t)
		c.StopServer()
		if err := end(); err == nil {
			t.Error("a server that is down went unnoticed")
		}
		c.StartServer()
		c.Write("imds-bridge.token", []byte(c.Token("imds-bridge", "imds-bridge"))) // is read again
		told, _ = watched(t, s)
		told.awaitReady(t)
		query.Set("resourceVersion", "1")
		text := r.get(http.StatusOK, podsPath, query, "application/json")
		r.save("expired.jsonl", text)
		w := &watch{client: r.client, told: told}
		if version, err := w.follow(t.Context(), "1"); err != errExpired {
			t.Errorf("%q, %v", version, err)
		}
	})
	s.options.TokenFile = c.Write("wrong.token", []byte("wrong"))
	r.save("unauthorized.json", r.get(http.StatusUnauthorized, podsPath, s.podsQuery("0"), "application/json"))
	t.Log(log.String())
}

// recorder asks what the source asks, and writes down what it is answered.
type recorder struct {
	t *testing.T
	*client
}

func connected(t *testing.T, s *Source) *client {
	t.Helper()
	c, err := s.connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.transport.CloseIdleConnections)
	return c
}

// answers records those to single questions, and returns the version of the list.
func (r *recorder) answers() (version string) {
	list := r.get(http.StatusOK, podsPath, r.podsQuery("0"), "application/json")
	r.save("list.json", list)
	version, err := readList(strings.NewReader(string(list)), func(*podObject) {})
	if err != nil {
		r.t.Fatal(err)
	}
	for file, path := range map[string]string{
		"replicaset-web.json":    apps + "replicasets/web-6d4cf56db6",
		"replicaset-canary.json": apps + "replicasets/canary-77f9",
		"job-report.json":        batch + "jobs/report-29384010",
		"job-import.json":        batch + "jobs/import",
	} {
		r.save(file, r.get(http.StatusOK, path, nil, metadataOnly))
	}
	r.save("replicaset-unknown.json", r.get(http.StatusNotFound, apps+"replicasets/gone", nil, metadataOnly))
	return version
}

func (r *recorder) get(status int, path string, query url.Values, accept string) []byte {
	target := *r.server
	target.Path, target.RawQuery = path, query.Encode()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		r.t.Error(err)
		return nil
	}
	token, err := readFile(r.options.TokenFile)
	if err != nil {
		r.t.Error(err)
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Accept", accept)
	answer, err := r.transport.RoundTrip(request)
	if err != nil {
		r.t.Error(err)
		return nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != status {
		r.t.Errorf("GET %s: %s: %v: %s", path, answer.Status, err, text)
	}
	return text
}

func (r *recorder) save(file string, text []byte) {
	r.t.Helper()
	if !*record {
		return
	}
	if err := os.WriteFile(filepath.Join("testdata", file), text, 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// inPod returns the living containers of a pod, by name.
func (l *told) inPod(name string) map[string]*container.Container {
	found := make(map[string]*container.Container)
	for id, c := range l.here {
		if c.Pod.Name == name && !l.gone[id] {
			found[c.Pod.Container] = c
		}
	}
	return found
}
