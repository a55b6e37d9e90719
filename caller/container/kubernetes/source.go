// Package kubernetes knows the pods of one node from the API server.
//
// It makes its few requests with net/http. A program that watches pods with client-go 0.34 has 49 MB, one
// with net/http and encoding/json 6 MB; the whole bridge has 25 MB.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

// kept bounds the pods, and the containers, that are remembered here. A [container.Directory] keeps as
// many of each.
const kept = 4096

// Options say whom to ask about what.
type Options struct {
	// Server is the URL of the API server. It must begin with https, for each request has the token.
	Server string
	// Node is the name of the node whose pods are told of.
	Node string
	// TokenFile is read before each request, because tokens are rotated.
	TokenFile string
	// CAFile has the certificates that the server's is checked against. It is read with each watch.
	CAFile string
	Log    *slog.Logger
}

// InCluster are the options of a pod that has a service account.
func InCluster(getenv func(string) string, node string, log *slog.Logger) (Options, error) {
	const account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return Options{}, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod of Kubernetes")
	}
	return Options{
		Server: "https://" + net.JoinHostPort(host, port), Node: node,
		TokenFile: account + "token", CAFile: account + "ca.crt", Log: log,
	}, nil
}

// Source is the pods of a node. It is safe for concurrent use, and keeps no connection while nobody
// watches.
type Source struct {
	options Options
	server  *url.URL
	times   times
	maxList int64
	owners  *lru.Cache[question, container.Workload] // that were asked about
	last    atomic.Pointer[watch]                    // of those that came to know the pods
}

// times are how long things take, at most.
type times struct {
	answer time.Duration // until an answer begins, and until a small one ends
	list   time.Duration
	watch  time.Duration // at least, until it is made anew; at most twice as long
	pause  time.Duration // between watches that end at once
	retry  time.Duration // until an owner is asked about again
	denied time.Duration // until it is where that is forbidden
}

// New does not ask anything yet.
func New(o Options) (*Source, error) {
	server, err := url.Parse(o.Server)
	if err != nil {
		return nil, fmt.Errorf("the API server's URL: %w", err)
	}
	if server.Scheme != "https" || server.Host == "" {
		return nil, fmt.Errorf("the API server's URL is %q: it must begin with https, for requests have a token", o.Server)
	}
	if o.Node == "" {
		return nil, errors.New("the name of the node is not known: set it from the downward API's spec.nodeName")
	}
	s := &Source{
		options: o, server: server, maxList: 64 << 20,
		times: times{
			answer: 10 * time.Second, list: time.Minute, watch: 5 * time.Minute,
			pause: time.Second, retry: 30 * time.Second, denied: 10 * time.Minute,
		},
	}
	s.owners, _ = lru.New[question, container.Workload](kept) // fails for a size below 1 alone
	return s, nil
}

// Name is kubernetes.
func (s *Source) Name() string { return "kubernetes" }

// Inspect tells what the last watch knows, and asks nobody: an API server does not find a pod by the id of
// a container.
func (s *Source) Inspect(_ context.Context, id string) (*container.Container, error) {
	w := s.last.Load()
	if w == nil {
		return nil, container.ErrUnknown
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.containers[id]; ok {
		return c, nil
	}
	return nil, container.ErrUnknown
}
