package kubernetes

import (
	"bytes"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is an API server that answers what a real one was recorded to answer, and what a test wants
// beside that.
type fake struct {
	t      *testing.T
	server *httptest.Server
	dir    string

	mu       sync.Mutex
	lists    []http.HandlerFunc // one for each request, the last for all after it
	watches  []http.HandlerFunc
	owners   map[string]http.HandlerFunc // by path
	requests []*http.Request
}

// newFake replays the shop. Its watches tell nothing.
func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, dir: t.TempDir(), lists: handlers(replay("list.json")), watches: handlers(hang)}
	f.owners = map[string]http.HandlerFunc{
		"/apis/apps/v1/namespaces/shop/replicasets/web-6d4cf56db6": replay("replicaset-web.json"),
		"/apis/apps/v1/namespaces/shop/replicasets/canary-77f9":    replay("replicaset-canary.json"),
		"/apis/batch/v1/namespaces/shop/jobs/report-29384010":      replay("job-report.json"),
		"/apis/batch/v1/namespaces/shop/jobs/import":               replay("job-import.json"),
	}
	f.server = httptest.NewUnstartedServer(f)
	f.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	f.server.StartTLS()
	t.Cleanup(func() {
		f.server.CloseClientConnections()
		f.server.Close()
	})
	f.write("ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})))
	f.write("token", "first\n")
	return f
}

func handlers(all ...http.HandlerFunc) []http.HandlerFunc { return all }

func (f *fake) write(name, text string) {
	f.t.Helper()
	// As the kubelet does: nobody sees half of it.
	if err := os.WriteFile(filepath.Join(f.dir, "new"), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(f.dir, "new"), filepath.Join(f.dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) source(log io.Writer) *Source {
	f.t.Helper()
	s, err := New(Options{
		Server: f.server.URL, Node: "node-1", TokenFile: filepath.Join(f.dir, "token"), CAFile: filepath.Join(f.dir, "ca.crt"),
		Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	s.times.answer, s.times.pause = 20*time.Second, 10*time.Millisecond // the machine may be busy
	return s
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.requests = append(f.requests, r)
	var answer http.HandlerFunc
	switch {
	case r.URL.Path != podsPath:
		answer = f.owners[r.URL.Path]
	case r.URL.Query().Get("watch") == "true":
		answer = next(&f.watches)
	default:
		answer = next(&f.lists)
	}
	f.mu.Unlock()
	if r.Method != http.MethodGet {
		f.t.Errorf("%s %s: something would be changed", r.Method, r.URL)
	}
	if answer == nil {
		answer = refuse(http.StatusNotFound, "replicaset-unknown.json")
	}
	answer(w, r)
}

func next(handlers *[]http.HandlerFunc) http.HandlerFunc {
	first := (*handlers)[0]
	if len(*handlers) > 1 {
		*handlers = (*handlers)[1:]
	}
	return first
}

// asked returns the requests for lists and watches, or those for owners.
func (f *fake) asked(forPods bool) (requests []*http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if (r.URL.Path == podsPath) == forPods {
			requests = append(requests, r)
		}
	}
	return slices.Clip(requests)
}

func (f *fake) setOwner(path string, answer http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owners[path] = answer
}

func recorded(file string) []byte {
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		panic(err)
	}
	return text
}

func replay(file string) http.HandlerFunc { return refuse(http.StatusOK, file) }

func refuse(status int, file string) http.HandlerFunc { return say(status, string(recorded(file))) }

func say(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

// hang begins a watch in which nothing happens.
func hang(w http.ResponseWriter, r *http.Request) {
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

// silent answers nothing.
func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// lines hands out the lines of a file one by one when it may, and then ends.
func lines(file string, may <-chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		for line := range bytes.Lines(recorded(file)) {
			select {
			case <-may:
			case <-r.Context().Done():
				return
			}
			_, _ = w.Write(line)
			w.(http.Flusher).Flush()
		}
	}
}

// listOf is a list of pods.
func listOf(pods ...string) string {
	return `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[` + strings.Join(pods, ",") + `]}`
}
