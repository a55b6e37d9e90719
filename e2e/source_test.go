package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// source stands before a Docker daemon, and has a fault until it is mended.
type source struct {
	socket string
	fault  http.HandlerFunc // with a context that ends once it is mended
	broken context.Context
	mend   context.CancelFunc
	daemon *httputil.ReverseProxy
	passed atomic.Int64 // subscriptions to events, since it was mended
}

// startSource listens on a socket of its own.
func (d docker) startSource(t *testing.T, fault http.HandlerFunc) *source {
	t.Helper()
	s := &source{socket: filepath.Join(socketDir(t, "source"), "socket"), fault: fault}
	s.daemon = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "docker" },
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.socket)
		}},
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) {}, // who asked has gone
	}
	listener, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	hanging, end := context.WithCancel(context.Background())
	s.broken, s.mend = context.WithCancel(hanging)
	server := &http.Server{Handler: s, BaseContext: func(net.Listener) context.Context { return hanging }}
	go server.Serve(listener)
	t.Cleanup(func() {
		end()
		server.Close()
	})
	return s
}

func (s *source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.broken.Err() == nil {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(s.broken, cancel)()
		s.fault(w, r.WithContext(ctx))
		return
	}
	if strings.HasSuffix(r.URL.Path, "/events") {
		s.passed.Add(1)
	}
	s.daemon.ServeHTTP(w, r)
}

// invalid makes of the text that passes what is not UTF-8, wherever there was a ¤.
func invalid(answer *http.Response) error {
	answer.Body = struct {
		io.Reader
		io.Closer
	}{invalidReader{answer.Body}, answer.Body}
	return nil
}

type invalidReader struct{ io.Reader }

func (r invalidReader) Read(into []byte) (int, error) {
	n, err := r.Reader.Read(into)
	copy(into, bytes.ReplaceAll(into[:n], []byte("¤")[:1], []byte("\xff")))
	return n, err
}

// silent never answers.
func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// forbids is a proxy that lets nothing through.
func forbids(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprintln(w, `{"message":"not for\u001b[2J you"}`)
}

// garbles answers with what is not even text.
func garbles(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, strings.Repeat("\x1b[31m\xff{\"Id\":\x00", 1000))
}

// tells answers all questions about containers with the same one, whichever was meant, and has no events.
func tells(name, id, team string) http.HandlerFunc {
	const form = `{"Id":"%[1]s","Name":"/%[2]s","Names":["/%[2]s"],"Image":"%[2]s:1","Labels":{"team":"%[3]s"},"Config":{"Image":"%[2]s:1","Labels":{"team":"%[3]s"}}}`
	one := fmt.Sprintf(form, id, name, team)
	return func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case path == "/version":
			fmt.Fprint(w, `{"ApiVersion":"1.41","MinAPIVersion":"1.12"}`)
		case strings.HasSuffix(path, "/events"):
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case strings.HasSuffix(path, "/containers/json"):
			fmt.Fprint(w, "["+one+"]")
		default:
			fmt.Fprint(w, one)
		}
	}
}

// awaitWatched waits until it is watched that was mended.
func (s *source) awaitWatched(t *testing.T) {
	t.Helper()
	await(t, s.socket+" is watched", 30*time.Second, func() bool { return s.passed.Load() > 0 })
}
