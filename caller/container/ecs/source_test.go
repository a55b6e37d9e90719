package ecs

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/container/containertest"
)

// The answers in testdata were written after what is published of them: the developer guide's page on
// the agent's introspection, and the agent's own structs (ecs-agent/introspection/v1/response.go). They
// were not recorded.

// fake is an agent that answers as a test wants it to.
type fake struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]http.HandlerFunc // by path and query
	asked   []string
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{answers: map[string]http.HandlerFunc{
		"/v1/metadata":                  replay(t, 200, "metadata.json"),
		"/v1/tasks":                     replay(t, 200, "tasks.json"),
		"/v1/tasks?dockerid=" + id(1):   replay(t, 200, "task.json"),
		"/v1/tasks?dockerid=" + id(0xf): replay(t, 404, "task-unknown.json"),
	}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked = append(f.asked, r.URL.RequestURI())
	answer := f.answers[r.URL.RequestURI()]
	f.mu.Unlock()
	if answer == nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	answer(w, r)
}

func (f *fake) answer(path string, with http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[path] = with
}

func (f *fake) timesAsked(path string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, asked := range f.asked {
		if asked == path {
			n++
		}
	}
	return n
}

func (f *fake) source(t *testing.T) *Source {
	t.Helper()
	s, err := New(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	s.patience, s.every = 20*time.Second, 10*time.Millisecond // the machine may be busy
	return s
}

func replay(t *testing.T, status int, file string) http.HandlerFunc {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return say(status, string(text))
}

func say(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	}
}

func id(n int) string { return fmt.Sprintf("%064x", n) }

// told records what a source tells, in its order.
type told struct {
	mu   sync.Mutex
	log  []string
	here map[string]*container.Container
}

func (l *told) add(what string) { l.log = append(l.log, what) }

func (l *told) Ready() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add("ready")
}

func (l *told) Here(c *container.Container) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.here[c.ID] = c
	l.add("here " + c.ID)
}

func (l *told) Gone(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add("gone " + id)
}

func (l *told) Pod(*container.Pod) {}
func (l *told) PodGone(string)     {}

func (l *told) has(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.log, what)
}

// watched watches a source till the end of the test, or until the function is called that returns how it
// ended.
func watched(t *testing.T, s *Source) (*told, func() error) {
	t.Helper()
	l := &told{here: make(map[string]*container.Container)}
	return l, containertest.Watch(t, s, l)
}

func await(t *testing.T, what string, test func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !test(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not %s", what)
		}
	}
}

func TestTasksAreToldOf(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	l, _ := watched(t, f.source(t))
	await(t, "ready", func() bool { return l.has("ready") })
	before := f.timesAsked("/v1/tasks")
	await(t, "asked again", func() bool { return f.timesAsked("/v1/tasks") > before+2 })
	l.mu.Lock()
	if len(l.log) != 4 || l.log[3] != "ready" {
		t.Errorf("%q", l.log) // three containers, each told of once
	}
	want := container.Task{
		Cluster: "prod", ARN: "arn:aws:ecs:us-west-2:123456789012:task/prod/0a1b2c3d4e5f60718293a4b5c6d7e8f9",
		Family: "web", Revision: "7", Container: "app",
	}
	web := l.here[id(1)]
	if *web.Task != want || web.Name != "ecs-web-7-app-a8d5f0c1b2e3d4958601" || web.Runtime != "docker" || fmt.Sprint(web.From) != "[ecs]" ||
		web.Image.String() != "123456789012.dkr.ecr.us-west-2.amazonaws.com/shop/web:v3" || web.Image.ID != "sha256:"+id(0x100) {
		t.Errorf("%+v %+v", web, web.Task)
	}
	if got := l.here[id(2)].Image.String(); got != "envoyproxy/envoy:latest" {
		t.Error(got)
	}
	if old := l.here[id(3)]; old.Task.Family != "batch" || old.Task.Revision != "12" || old.Image != (container.Image{}) {
		t.Errorf("%+v %+v", old, old.Task) // of an agent that does not tell the image
	}
	l.mu.Unlock()

	f.answer("/v1/tasks", replay(t, 200, "tasks-later.json"))
	await(t, "gone", func() bool { return l.has("gone "+id(1)) && l.has("gone "+id(2)) })
	if l.has("gone " + id(3)) {
		t.Error("another task is gone")
	}
}

func TestOneContainerIsAskedAbout(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.source(t)
	if c, err := s.Inspect(t.Context(), id(1)); err != nil || c.Task.Container != "app" || c.Task.Cluster != "prod" {
		t.Errorf("%+v, %v", c, err)
	}
	for _, unknown := range []string{id(0xf), "", "a", id(1)[:12], id(1) + "&taskarn=x"} {
		if c, err := s.Inspect(t.Context(), unknown); !errors.Is(err, container.ErrUnknown) {
			t.Errorf("%q: %+v, %v", unknown, c, err)
		}
	}
	if n := f.timesAsked("/v1/metadata"); n != 1 {
		t.Errorf("asked %d times for the cluster", n)
	}
	// An agent that refuses the question, and one that does not know it.
	if c, err := s.Inspect(t.Context(), id(3)); err != nil || c.Task.Family != "batch" {
		t.Errorf("%+v, %v", c, err)
	}
	f.answer("/v1/tasks?dockerid="+id(4), replay(t, 200, "tasks.json"))
	if c, err := s.Inspect(t.Context(), id(4)); err != nil || c.Task.Family != "once" {
		t.Errorf("%+v, %v", c, err)
	}
	f.answer("/v1/tasks?dockerid="+id(5), replay(t, 200, "task.json"))
	if c, err := s.Inspect(t.Context(), id(5)); !errors.Is(err, container.ErrUnknown) {
		t.Errorf("the task of another: %+v, %v", c, err)
	}
}

func TestAgentThatDoesNotAnswerRightly(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirection was followed") }))
	t.Cleanup(other.Close)
	for name, test := range map[string]struct {
		path   string
		answer http.HandlerFunc
		want   string
	}{
		"hangs":          {"/v1/metadata", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer from the ECS agent"},
		"hangs later":    {"/v1/tasks", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer from the ECS agent"},
		"is not ready":   {"/v1/tasks", say(500, `{"Tasks":null}`), "GET /v1/tasks: status 500"},
		"redirects":      {"/v1/tasks", http.RedirectHandler(other.URL, http.StatusFound).ServeHTTP, "status 302"},
		"is no agent":    {"/v1/metadata", say(200, "<html>"), "invalid character"},
		"answers longer": {"/v1/tasks", say(200, strings.Repeat(" ", maxAnswer+1)), "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.answer(test.path, test.answer)
			s := f.source(t)
			if strings.HasPrefix(name, "hangs") {
				s.patience = 300 * time.Millisecond
			}
			_, end := watched(t, s)
			if err := end(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Error(err)
			}
		})
	}
}

func TestAgentIsAway(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.source(t)
	if s.transport.Proxy != nil {
		t.Error("a proxy of the environment would be asked")
	}
	f.Close()
	if _, err := s.Inspect(t.Context(), id(1)); err == nil || !strings.Contains(err.Error(), "is the ECS agent running?") {
		t.Error(err)
	}
	for _, wrong := range []string{"", "127.0.0.1:51678", "https://127.0.0.1", "http://", "http://127.0.0.1/v1/"} {
		if _, err := New(wrong); err == nil {
			t.Errorf("%q", wrong)
		}
	}
	if s, err := New(Endpoint); err != nil || s.Name() != "ecs" {
		t.Error(err)
	}
}

func TestHostileTask(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	long := strings.Repeat("x", 100<<10)
	f.answer("/v1/tasks?dockerid="+id(1), say(200, `{"Arn":"\u001b[2J","Family":"`+long+`","Containers":[{"DockerId":"`+id(1)+`","Name":"a\n","Image":"`+long+`","ImageID":"\u0000"}]}`))
	c, err := f.source(t).Inspect(t.Context(), id(1))
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v %+v", c, c.Task); strings.ContainsAny(text, "\x1b\n\x00") || len(text) > 2<<10 {
		t.Errorf("%.300q", text)
	}
}

var _ container.Source = (*Source)(nil)
