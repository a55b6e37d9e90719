package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
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

// fake is a daemon that answers as a test wants it to.
type fake struct {
	t      *testing.T
	socket string
	events chan string // lines
	end    func()      // of the daemon

	mu       sync.Mutex
	answers  map[string]any // by path without version: a string, a thing to be written as JSON, or a handler
	requests []string
}

const (
	dockerVersion = `{"ApiVersion":"1.41","MinAPIVersion":"1.12","Components":[{"Name":"Engine"},{"Name":"containerd"}]}`
	podmanVersion = `{"ApiVersion":"1.41","MinAPIVersion":"1.24","Components":[{"Name":"Podman Engine"},{"Name":"Conmon"}]}`
)

func newFake(t *testing.T) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "docker") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fake{t: t, socket: filepath.Join(dir, "socket"), events: make(chan string, 100)}
	f.answers = map[string]any{"/version": dockerVersion, "/containers/json": "[]", "/events": http.HandlerFunc(f.stream), "/_ping": "OK"}
	f.end = f.listen()
	t.Cleanup(func() { f.end() })
	return f
}

// listen serves until what it returns is called. Requests that hang are ended then.
func (f *fake) listen() (end func()) {
	f.t.Helper()
	listener, err := net.Listen("unix", f.socket)
	if err != nil {
		f.t.Fatal(err)
	}
	hanging, stop := context.WithCancel(context.Background())
	server := &http.Server{Handler: f, BaseContext: func(net.Listener) context.Context { return hanging }}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) })
	return sync.OnceFunc(func() {
		stop()
		server.Close()
		running.Wait()
	})
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/v1.41/"); ok {
		path = "/" + rest
	}
	f.mu.Lock()
	f.requests = append(f.requests, path)
	answer := f.answers[path]
	f.mu.Unlock()
	if r.Method != http.MethodGet {
		f.t.Errorf("%s %s: something would be changed", r.Method, path)
	}
	switch answer := answer.(type) {
	case nil:
		http.Error(w, `{"message":"no such thing"}`, http.StatusNotFound)
	case string:
		fmt.Fprint(w, answer)
	case http.HandlerFunc:
		answer(w, r)
	default:
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// stream hands out the lines of f.events; "end" ends the stream.
func (f *fake) stream(w http.ResponseWriter, r *http.Request) {
	w.(http.Flusher).Flush()
	for {
		select {
		case line := <-f.events:
			if line == "end" {
				return
			}
			fmt.Fprintln(w, line)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// hang answers nothing.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func (f *fake) answer(path string, with any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[path] = with
}

func (f *fake) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

func (f *fake) timesAsked(path string) (n int) {
	for _, asked := range f.asked() {
		if asked == path {
			n++
		}
	}
	return n
}

// source is one that has patience with a busy machine.
func (f *fake) source() *Source { return newSource(f.socket, 20*time.Second, 100*time.Millisecond) }

// impatient is one for a daemon that hangs.
func (f *fake) impatient() *Source {
	return newSource(f.socket, 300*time.Millisecond, 50*time.Millisecond)
}

// object is JSON.
type object map[string]any

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// id is that of a container or an image.
func id(n int) string { return fmt.Sprintf("%064x", n) }

// happens sends an event.
func (f *fake) happens(action, id string, attributes object) {
	f.events <- text(f.t, object{"Type": "container", "Action": action, "Actor": object{"ID": id, "Attributes": attributes}})
}

// has adds a container and its image to what can be asked about.
func (f *fake) has(container, name, image, reference string, labels object) {
	f.answer("/containers/"+container+"/json", object{"Id": container, "Name": "/" + name, "Image": "sha256:" + image,
		"Config": object{"Image": reference, "Labels": labels, "Env": []string{"SECRET=hunter2"}}})
}

func (f *fake) hasImage(image string, tags, digests []string, labels object) {
	f.answer("/images/sha256:"+image+"/json", object{"Id": "sha256:" + image, "RepoTags": tags, "RepoDigests": digests, "Config": object{"Labels": labels}})
}

// told records what a source tells.
type told struct {
	ready chan struct{}
	mu    sync.Mutex
	here  map[string]*container.Container
	gone  map[string]bool
	log   []string
}

// watched watches a source till the end of the test, or until the function is called that returns how it
// ended.
func watched(t *testing.T, s container.Source) (*told, func() error) {
	t.Helper()
	l := &told{ready: make(chan struct{}), here: make(map[string]*container.Container), gone: make(map[string]bool)}
	return l, containertest.Watch(t, s, l)
}

func (l *told) Ready() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = append(l.log, "ready")
	close(l.ready)
}

func (l *told) Here(c *container.Container) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.here[c.ID] = c
	l.gone[c.ID] = false
	l.log = append(l.log, "here "+c.Name)
}

func (l *told) Gone(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone[id] = true
	l.log = append(l.log, "gone")
}

func (l *told) Pod(*container.Pod) {}
func (l *told) PodGone(string)     {}

// of returns what was told of a container at last.
func (l *told) of(id string) (c *container.Container, gone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.here[id], l.gone[id]
}

// await waits until something was told of a container that satisfies a test.
func (l *told) await(t *testing.T, id string, test func(c *container.Container, gone bool) bool) *container.Container {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		c, gone := l.of(id)
		if c != nil && test(c, gone) {
			return c
		}
		if time.Now().After(deadline) {
			t.Fatalf("told of %s: %+v, gone: %t", id, c, gone)
		}
	}
}

func (l *told) awaitReady(t *testing.T) {
	t.Helper()
	select {
	case <-l.ready:
	case <-time.After(10 * time.Second):
		t.Fatal("not ready")
	}
}
