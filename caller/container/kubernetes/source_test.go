package kubernetes

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

func TestOptions(t *testing.T) {
	t.Parallel()
	environment := map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
	o, err := InCluster(func(name string) string { return environment[name] }, "node-1", slog.New(slog.DiscardHandler))
	if err != nil || o.Server != "https://[fd00::1]:443" || !strings.HasPrefix(o.TokenFile, "/var/run/secrets/kubernetes.io/serviceaccount/") {
		t.Errorf("%+v, %v", o, err)
	}
	if s, err := New(o); err != nil || s.Name() != "kubernetes" {
		t.Error(err)
	}
	if _, err := InCluster(func(string) string { return "" }, "node-1", nil); err == nil {
		t.Error("a pod without a cluster")
	}
	for _, wrong := range []Options{{Server: "http://127.0.0.1", Node: "n"}, {Server: "127.0.0.1:443", Node: "n"}, {Server: "https://127.0.0.1"}, {Server: "https://", Node: "n"}} {
		if _, err := New(wrong); err == nil {
			t.Errorf("%+v", wrong)
		}
	}
}

func TestTokenIsRotated(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	ends := make(chan struct{})
	f.watches = handlers(func(http.ResponseWriter, *http.Request) { <-ends }, hang)
	l, _ := watched(t, f.source(io.Discard))
	l.awaitReady(t)
	l.await(t, "watched", func() bool { return len(f.asked(true)) == 2 })
	f.write("token", "second\n")
	close(ends)
	l.await(t, "watched again", func() bool { return len(f.asked(true)) == 3 })
	for n, want := range []string{"Bearer first", "Bearer first", "Bearer second"} {
		if got := f.asked(true)[n].Header.Get("Authorization"); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

// A watch that ends is made anew; that the server is gone is told.
func TestServerGoesAway(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	f.watches = handlers(cut, cut, hang)
	l, end := watched(t, f.source(io.Discard))
	l.await(t, "watched again", func() bool { return len(f.asked(true)) == 4 })
	f.server.Listener.Close()
	f.server.CloseClientConnections()
	if err := end(); err == nil || !strings.Contains(err.Error(), "watch pods of node node-1") {
		t.Error(err)
	}
}

func TestServerHangs(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*fake){
		"list":             func(f *fake) { f.lists = handlers(silent) },
		"half of a list":   func(f *fake) { f.lists = handlers(begin) },
		"watch":            func(f *fake) { f.watches = handlers(silent) },
		"a watch for long": func(f *fake) { f.watches = handlers(hang) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			set(f)
			s := f.source(io.Discard)
			s.times.answer, s.times.list, s.times.watch = 300*time.Millisecond, 500*time.Millisecond, 100*time.Millisecond
			_, end := watched(t, s)
			if err := end(); err == nil || !strings.Contains(err.Error(), "in time") {
				t.Error(err)
			}
		})
	}
}

// begin answers half of a list.
func begin(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, `{"kind":"PodList","items":[`)
	hang(w, r)
}

func TestSlowOwnersHoldUpNobody(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	for path := range f.owners {
		f.setOwner(path, silent)
	}
	l, _ := watched(t, f.source(io.Discard))
	l.awaitReady(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.here); n != 11 {
		t.Errorf("%d containers", n)
	}
}

// The image of a running pod's specification may be changed. Its container is then made anew.
func TestImageIsChanged(t *testing.T) {
	t.Parallel()
	pod := func(image, status string) string {
		return `{"metadata":{"name":"p","uid":"u","resourceVersion":"8"},"spec":{"containers":[{"name":"c","image":"` + image + `"}]},
			"status":{"containerStatuses":[{"name":"c",` + status + `}]}}`
	}
	event := func(pod string) string {
		return strings.ReplaceAll(`{"type":"MODIFIED","object":`+pod+"}", "\n", " ") + "\n"
	}
	first := `"containerID":"containerd://` + id(1) + `","imageID":"a@` + digest(1) + `","state":{"running":{}}`
	second := `"containerID":"containerd://` + id(2) + `","imageID":"a@` + digest(2) + `","state":{"running":{}},
		"lastState":{"terminated":{"containerID":"containerd://` + id(1) + `"}}`
	f := newFake(t)
	f.lists = handlers(say(http.StatusOK, listOf(pod("a:1", first))))
	f.watches = handlers(say(http.StatusOK, event(pod("a:2", first))+event(pod("a:2", second))), hang)
	l, _ := watched(t, f.source(io.Discard))
	l.await(t, "made anew", func() bool { return l.here[id(2)] != nil && l.gone[id(1)] })
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, want := range map[int]string{1: "a:1@" + digest(1), 2: "a:2@" + digest(2)} {
		if got := l.here[id(n)].Image.String(); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

func TestHostileServer(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirection was followed") }))
	t.Cleanup(other.Close)
	for name, test := range map[string]struct {
		list, watch http.HandlerFunc
		want        string
	}{
		"redirects":         {list: http.RedirectHandler(other.URL, http.StatusFound).ServeHTTP, want: "status 302"},
		"refuses in escape": {list: say(http.StatusInternalServerError, `{"message":"\u001b[2J\n"}`), want: `\x1b[2J\n`},
		"is no API server":  {list: say(http.StatusOK, "<html>"), want: "invalid character"},
		"lists a list":      {list: say(http.StatusOK, "[]"), want: "does not begin with {"},
		"lists no items":    {list: say(http.StatusOK, `{"items":7}`), want: "has no items"},
		"has no version":    {list: say(http.StatusOK, `{"items":null}`), want: "has no version"},
		"lists half":        {list: say(http.StatusOK, `{"metadata":{"resourceVersion":"7"},"items":[`), want: "EOF"},
		"lists too much":    {list: say(http.StatusOK, `{"a":"`+strings.Repeat("a", 2<<20)), want: "longer than 1048576 bytes"},
		"watches no JSON":   {watch: say(http.StatusOK, "hello\n"), want: "invalid character"},
		"watches long":      {watch: say(http.StatusOK, strings.Repeat("a", maxLine+1)), want: "token too long"},
		"watches an error":  {watch: say(http.StatusOK, `{"type":"ERROR","object":{"code":500,"message":"etcd is away"}}`+"\n"), want: "etcd is away"},
		"watches odd types": {watch: say(http.StatusOK, `{"type":"\u001b","object":7}`+"\n"), want: `event \x1b`},
		"watch forbidden":   {watch: refuse(http.StatusForbidden, "forbidden.json"), want: "needs list and watch on pods"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			if test.list != nil {
				f.lists = handlers(test.list)
			}
			if test.watch != nil {
				f.watches = handlers(test.watch)
			}
			s := f.source(io.Discard)
			s.maxList = 1 << 20
			_, end := watched(t, s)
			if err := end(); err == nil || !strings.Contains(err.Error(), test.want) || strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Error(err)
			}
		})
	}
}

// That there is no API server at the moment is worth a warning, as where there never was one of another
// source it is not.
func TestServerIsDown(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.server.Close()
	_, end := watched(t, f.source(io.Discard))
	if err := end(); err == nil || !strings.Contains(err.Error(), "refuses connections: is the API server running?") || errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
}

func TestNoProxyIsUsed(t *testing.T) {
	t.Parallel()
	c, err := newFake(t).source(io.Discard).connect()
	if err != nil || c.transport.Proxy != nil {
		t.Errorf("a proxy of the environment would get the token: %v", err)
	}
}

func TestNoCertificates(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.write("ca.crt", string(recorded("version.txt")))
	_, end := watched(t, f.source(io.Discard))
	if err := end(); err == nil || !strings.Contains(err.Error(), "no certificate in") {
		t.Error(err)
	}
}

func TestBoundsOfWhatIsKept(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	var pods []string
	for n := range kept + 10 {
		pods = append(pods, `{"metadata":{"name":"p","uid":"`+id(n)[32:]+`"}}`)
	}
	f.lists = handlers(say(http.StatusOK, listOf(pods...)))
	s := f.source(io.Discard)
	l, _ := watched(t, s)
	l.awaitReady(t)
	w := s.last.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pods) != kept {
		t.Errorf("%d pods", len(w.pods))
	}
}

var _ container.Source = (*Source)(nil)
