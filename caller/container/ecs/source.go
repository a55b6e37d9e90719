// Package ecs knows the containers of Amazon ECS tasks from the ECS agent's introspection endpoint.
package ecs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

// Endpoint is the agent's, which listens on the instance's own network.
const Endpoint = "http://127.0.0.1:51678"

const (
	// maxAnswer bounds an answer.
	maxAnswer = 16 << 20
	// kept bounds the containers that are told of. A [container.Directory] keeps as many.
	kept = 4096
)

// Source is one agent. It is safe for concurrent use.
//
// The endpoint has no password: on an instance without an agent anybody may listen there. Ask it only
// where an agent is known to run.
type Source struct {
	endpoint  string
	transport *http.Transport
	patience  time.Duration // for an answer
	every     time.Duration // the agent has no events: how often it is asked
	cluster   atomic.Pointer[string]
}

// New is for the agent at a URL, [Endpoint] unless it is told to listen elsewhere. Nothing is asked yet.
func New(endpoint string) (*Source, error) {
	parsed, err := url.Parse(endpoint)
	if err != nil || parsed.Scheme != "http" || parsed.Host == "" || strings.Trim(parsed.Path, "/") != "" {
		return nil, fmt.Errorf("the ECS agent's endpoint is %q: it must be like %s", endpoint, Endpoint)
	}
	s := &Source{endpoint: strings.TrimRight(endpoint, "/"), patience: 5 * time.Second, every: 30 * time.Second}
	// It has no proxies, and a connection for each request: an agent is restarted with each update.
	s.transport = &http.Transport{
		DialContext:            (&net.Dialer{Timeout: s.patience}).DialContext,
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true,
		DisableCompression:     true,
	}
	return s, nil
}

// Name is ecs.
func (s *Source) Name() string { return "ecs" }

// Watch implements [container.Source] by asking every 30 seconds.
func (s *Source) Watch(ctx context.Context, told container.Listener) error {
	known := make(map[string]*container.Container)
	for first := true; ; first = false {
		now, err := s.all(ctx)
		if err != nil {
			return err
		}
		for id, c := range now {
			if known[id] == nil || !reflect.DeepEqual(c, known[id]) {
				told.Here(c)
			}
		}
		for id := range known {
			if now[id] == nil {
				told.Gone(id)
			}
		}
		known = now
		if first {
			told.Ready()
		}
		select {
		case <-time.After(s.every):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Inspect asks about one container.
func (s *Source) Inspect(ctx context.Context, id string) (*container.Container, error) {
	if !isID(id) {
		return nil, container.ErrUnknown
	}
	if s.cluster.Load() == nil {
		if err := s.greet(ctx); err != nil {
			return nil, err
		}
	}
	// An agent that does not know the question may answer with all tasks.
	var found struct {
		task
		Tasks []task
	}
	err := s.get(ctx, "/v1/tasks?dockerid="+id, &found)
	var answered *statusError
	switch {
	case errors.As(err, &answered) && answered.status == http.StatusNotFound:
		return nil, container.ErrUnknown
	case errors.As(err, &answered):
		err = s.get(ctx, "/v1/tasks", &found)
	}
	if err != nil {
		return nil, err
	}
	for _, t := range append(found.Tasks, found.task) {
		for _, c := range t.Containers {
			if c.DockerID == id {
				return s.tell(&t, &c), nil
			}
		}
	}
	return nil, container.ErrUnknown
}

// The agent's answers, as far as they are read.
type (
	metadata struct{ Cluster string }
	task     struct {
		Arn, KnownStatus, Family, Version string
		Containers                        []taskContainer
	}
	taskContainer struct {
		DockerID, DockerName, Name string
		Image, ImageID             string // of agents since the end of 2023
	}
)

// greet asks for the cluster.
func (s *Source) greet(ctx context.Context) error {
	var m metadata
	if err := s.get(ctx, "/v1/metadata", &m); err != nil {
		return err
	}
	s.cluster.Store(&m.Cluster)
	return nil
}

// all are the containers of the tasks that run, by id.
func (s *Source) all(ctx context.Context) (map[string]*container.Container, error) {
	if err := s.greet(ctx); err != nil { // each time, since another agent may have come
		return nil, err
	}
	var found struct{ Tasks []task }
	if err := s.get(ctx, "/v1/tasks", &found); err != nil {
		return nil, err
	}
	all := make(map[string]*container.Container)
	for _, t := range found.Tasks {
		if t.KnownStatus == "STOPPED" {
			continue // is remembered for some hours
		}
		for _, c := range t.Containers {
			if isID(c.DockerID) && len(all) < kept {
				all[c.DockerID] = s.tell(&t, &c)
			}
		}
	}
	return all, nil
}

var from = []string{"ecs"}

// tell says what is known of a container. The agent does not say which service started its task.
func (s *Source) tell(t *task, c *taskContainer) *container.Container {
	told := &container.Container{
		ID: c.DockerID, Runtime: "docker", Name: c.DockerName, Image: container.ParseImage(c.Image), From: from,
		Task: &container.Task{Cluster: *s.cluster.Load(), ARN: t.Arn, Family: t.Family, Revision: t.Version, Container: c.Name},
	}
	if i := &told.Image; i.Name != "" && i.Tag == "" && i.Digest == "" {
		i.Tag = "latest" // is what Docker takes it for
	}
	if digits := strings.TrimPrefix(c.ImageID, "sha256:"); isID(digits) {
		told.Image.ID = "sha256:" + digits
	}
	return container.Clean(told)
}

// isID tells the 64 hex digits of Docker.
func isID(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }
