package docker

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

func TestEventsAreSubscribedToBeforeTheList(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	var since string
	f.answer("/events", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		since = r.URL.Query().Get("since")
		f.stream(w, r)
	}))
	l, _ := watched(t, f.source())
	l.awaitReady(t)
	if got := f.asked()[:3]; !slices.Equal(got, []string{"/version", "/events", "/containers/json"}) {
		t.Errorf("asked for %q", got)
	}
	// Docker answers before it has subscribed.
	if at, err := strconv.ParseInt(since, 10, 64); err != nil || time.Since(time.Unix(at, 0)) < time.Minute {
		t.Errorf("since %q", since)
	}
}

func TestRunningContainersAreTold(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.answer("/version", podmanVersion)
	f.answer("/containers/json", []object{
		{"Id": id(1), "Names": []string{"/other/alias", "/web"}, "Image": "registry:5000/shop/web:v7", "ImageID": "sha256:" + id(9), "Labels": object{"team": "shop"}},
		{"Id": id(2), "Names": []string{"/web2"}, "Image": "registry:5000/shop/web:v7", "ImageID": id(9)}, // as old Podmans tell it
		{"Id": id(3), "Names": []string{"/retagged"}, "Image": "sha256:" + id(9), "ImageID": "sha256:" + id(9)},
		{"Id": "../x", "Names": []string{"/liar"}},
	})
	f.has(id(3), "retagged", id(9), "old", nil)
	f.hasImage(id(9), nil, []string{"registry:5000/shop/web@sha256:" + id(7)}, nil)
	s := f.source()
	l, _ := watched(t, s)
	whole := func(c *container.Container, _ bool) bool { return c.Image.Digest != "" }
	web := l.await(t, id(1), whole)
	if web.Name != "web" || web.Runtime != "podman" || web.Labels["team"] != "shop" || fmt.Sprint(web.From) != "[podman]" || s.Name() != "podman" ||
		web.Image != (container.Image{Name: "registry:5000/shop/web", Tag: "v7", Digest: "sha256:" + id(7), ID: "sha256:" + id(9)}) {
		t.Errorf("%+v", web)
	}
	if c := l.await(t, id(2), whole); c.Image != web.Image {
		t.Errorf("%+v", c)
	}
	if c := l.await(t, id(3), whole); c.Image.Name != "old" || c.Image.Tag != "latest" {
		t.Errorf("%+v", c)
	}
	if len(l.here) != 3 {
		t.Errorf("%d containers", len(l.here))
	}
	if n := f.timesAsked("/images/sha256:" + id(9) + "/json"); n > lookers {
		t.Errorf("the image was asked for %d times", n)
	}
}

func TestEventTellsEnoughOfAContainerThatIsGone(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	l, _ := watched(t, f.source())
	attributes := object{"name": "job", "image": "batch:3", "team": "data", "exitCode": "0"}
	for _, action := range []string{"create", "attach", "start", "die", "destroy"} {
		f.happens(action, id(1), attributes)
	}
	c := l.await(t, id(1), func(_ *container.Container, gone bool) bool { return gone })
	if c.Name != "job" || c.Image.String() != "batch:3" || len(c.Labels) != 1 || c.Labels["team"] != "data" {
		t.Errorf("%+v", c)
	}
}

// A container that dies while it is being asked about is told whole, and is gone at the end.
func TestAnswerAfterTheEndRevivesNothing(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.hasImage(id(9), nil, []string{"batch@sha256:" + id(7)}, nil)
	asked, answer := make(chan struct{}), make(chan struct{})
	f.answer("/containers/"+id(1)+"/json", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		fmt.Fprint(w, text(t, object{"Id": id(1), "Name": "/job", "Image": "sha256:" + id(9), "Config": object{"Image": "batch:3"}}))
	}))
	l, _ := watched(t, f.source())
	f.happens("create", id(1), object{"name": "job", "image": "batch:3"})
	<-asked
	f.happens("die", id(1), nil)
	l.await(t, id(1), func(_ *container.Container, gone bool) bool { return gone })
	close(answer)
	l.await(t, id(1), func(c *container.Container, gone bool) bool { return gone && c.Image.Digest != "" })
}

func TestLateAnswerDoesNotUndoARename(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.hasImage(id(9), nil, []string{"batch@sha256:" + id(7)}, nil)
	asked, answer := make(chan struct{}), make(chan struct{})
	f.answer("/containers/"+id(1)+"/json", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		fmt.Fprint(w, text(t, object{"Id": id(1), "Name": "/before", "Image": "sha256:" + id(9), "Config": object{"Image": "batch:3"}}))
	}))
	l, _ := watched(t, f.source())
	f.happens("create", id(1), object{"name": "before", "image": "batch:3"})
	<-asked
	f.happens("rename", id(1), object{"name": "after", "oldName": "/before", "image": "batch:3"})
	l.await(t, id(1), func(c *container.Container, _ bool) bool { return c.Name == "after" })
	close(answer)
	l.await(t, id(1), func(c *container.Container, _ bool) bool { return c.Name == "after" && c.Image.Digest != "" })
}

// What was found out is not lost when the container starts again, and not asked for again.
func TestRestartedContainerIsKnownWhole(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.has(id(1), "web", id(9), "web:1", nil)
	f.hasImage(id(9), nil, []string{"web@sha256:" + id(7)}, nil)
	l, _ := watched(t, f.source())
	attributes := object{"name": "web", "image": "web:1"}
	f.happens("create", id(1), attributes)
	l.await(t, id(1), func(c *container.Container, _ bool) bool { return c.Image.Digest != "" })
	f.happens("die", id(1), attributes)
	l.await(t, id(1), func(_ *container.Container, gone bool) bool { return gone })
	f.happens("start", id(1), attributes)
	if c := l.await(t, id(1), func(_ *container.Container, gone bool) bool { return !gone }); c.Image.Digest == "" {
		t.Errorf("%+v", c)
	}
	if n := f.timesAsked("/containers/" + id(1) + "/json"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestQuestionIsAskedAgain(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.answer("/containers/json", []object{{"Id": id(1), "Names": []string{"/web"}, "Image": "web:1", "ImageID": "sha256:" + id(9)}})
	var times int
	f.answer("/images/sha256:"+id(9)+"/json", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if times++; times < tries {
			http.Error(w, `{"message":"busy"}`, http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"RepoDigests":["web@sha256:%s"]}`, id(7))
	}))
	l, _ := watched(t, newSource(f.socket, 3*time.Second, 100*time.Millisecond))
	l.await(t, id(1), func(c *container.Container, _ bool) bool { return c.Image.Digest != "" })
}

func TestDaemonThatHangsIsNoticed(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/version", "/events", "/containers/json", "/_ping"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.answer(path, http.HandlerFunc(hang))
			_, end := watched(t, f.impatient())
			if err := end(); err == nil || !strings.Contains(err.Error(), "no answer from "+f.socket+" in time") {
				t.Error(err)
			}
		})
	}
}

func TestProxyNeedNotLetPingsThrough(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.answer("/_ping", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	l, end := watched(t, f.source())
	l.awaitReady(t)
	await(t, "it is pinged", func() bool { return f.timesAsked("/_ping") >= 3 })
	f.events <- "end"
	if err := end(); err == nil || !strings.Contains(err.Error(), "ended its events") {
		t.Error(err)
	}
}

func TestGarbageEndsTheWatch(t *testing.T) {
	t.Parallel()
	lines := func(lines ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Join(lines, "\n")) }
	}
	event := `{"Type":"container","Action":"start","Actor":{"ID":"` + id(1) + `"}}`
	for name, test := range map[string]struct {
		path string
		with any
		want string
	}{
		"version is a page":        {"/version", "<html>", "GET /version from"},
		"version of another API":   {"/version", `{"ApiVersion":"v2"}`, `"v2" is not one of Docker's`},
		"version is negative":      {"/version", `{"ApiVersion":"1.-4"}`, "is not one of Docker's"},
		"version is too long":      {"/version", strings.Repeat(" ", maxAnswer+1), "longer than"},
		"denied":                   {"/events", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }), "/events: status 403"},
		"redirection":              {"/containers/json", http.RedirectHandler("http://localhost/", http.StatusFound), "status 302"},
		"list is a page":           {"/containers/json", "<html>", "list containers of"},
		"list is cut off":          {"/containers/json", `[{"Id":"x"`, "unexpected EOF"},
		"list of something else":   {"/containers/json", `[{"Id":7}]`, "cannot unmarshal"},
		"event is a page":          {"/events", lines(event, "<html>"), "where an object should begin"},
		"event is cut off":         {"/events", lines(event, `{"Type":"cont`), "unexpected EOF"},
		"event is no JSON":         {"/events", lines(event, `{"Type":}`), "invalid character"},
		"event of something else":  {"/events", lines(event, `{"Type":{}}`), "cannot unmarshal"},
		"events end before a word": {"/events", lines(), "ended its events"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			if handler, ok := test.with.(http.Handler); ok {
				test.with = http.HandlerFunc(handler.ServeHTTP)
			}
			f.answer(test.path, test.with)
			_, end := watched(t, f.source())
			if err := end(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Error(err)
			}
		})
	}
}

func TestLiesAreNotBelieved(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.has(id(2), "web", id(9), "web:1", nil)
	f.answer("/containers/"+id(1)+"/json", object{"Id": id(2), "Name": "/another", "Image": "../../x"})
	s := f.source()
	if c, err := s.Inspect(t.Context(), id(1)); err == nil || !strings.Contains(err.Error(), "of another") {
		t.Errorf("%+v, %v", c, err)
	}
	l, _ := watched(t, s)
	f.events <- `{"Type":"container","Action":"start","Actor":{"ID":"../../_ping","Attributes":{"name":"x"}}}`
	f.events <- `{"Type":"image","Action":"create","Actor":{"ID":"` + id(3) + `"}}`
	f.happens("start", id(1), object{"name": "one", "image": "one:1"})
	f.happens("start", id(2), nil)
	l.await(t, id(2), func(c *container.Container, _ bool) bool { return c.Name == "web" })
	if c, _ := l.of(id(1)); len(l.here) != 2 || c.Name != "one" {
		t.Errorf("%+v", l.here)
	}
}

func TestHugeContainersHideNoOthers(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	huge := object{"evil": strings.Repeat("x", maxAnswer)}
	hostile := object{"evil\x1b[2J": strings.Repeat("\n\x1b", 50<<10), "name": "other", "image": "other"}
	f.answer("/containers/json", []object{
		{"Id": id(1), "Names": []string{"/huge"}, "Labels": huge},
		{"Id": id(2), "Names": []string{"/hostile"}, "Image": "a", "ImageID": id(9), "Labels": hostile},
	})
	f.hasImage(id(9), nil, nil, hostile)
	l, _ := watched(t, f.source())
	f.happens("start", id(3), huge)
	f.happens("start", id(4), object{"name": "next\n", "image": "b:1\x1b", "evil": strings.Repeat("\x1b", 50<<10)})
	next := l.await(t, id(4), func(*container.Container, bool) bool { return true })
	c := l.await(t, id(2), func(*container.Container, bool) bool { return true })
	if len(l.here) != 2 || len(c.Labels) != 3 || c.Labels["name"] != "other" || c.Name != "hostile" {
		t.Errorf("%+v", l.here)
	}
	for _, c := range []*container.Container{c, next} {
		said := fmt.Sprint(*c, c.Labels)
		if strings.ContainsAny(said, "\x1b\n") || len(said) > 4096 {
			t.Errorf("%d bytes: %.300q", len(said), said)
		}
	}
}
