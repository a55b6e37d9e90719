package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
)

// question is about a ReplicaSet or a Job, which most often have an owner in turn: a Deployment or a
// CronJob, or one of a custom kind.
type question struct {
	group, resource      string
	namespace, name, uid string
}

// questionAbout returns false for an owner that is the last one.
func questionAbout(namespace string, o owner) (question, bool) {
	q := question{namespace: namespace, name: o.Name, uid: o.UID}
	q.group, _, _ = strings.Cut(o.APIVersion, "/")
	switch q.group + " " + o.Kind {
	case "apps ReplicaSet":
		q.resource = "replicasets"
	case "batch Job":
		q.resource = "jobs"
	}
	// Whoever may make pods may write anything there, and it becomes part of a path.
	return q, q.resource != "" && isName(q.name)
}

// isName tells what an object may be called.
func isName(s string) bool {
	return s != "" && !strings.Contains(s, "..") && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") == "" && s[0] != '.'
}

// questions wait for their time. The watch's mutex guards them.
type questions struct {
	due    map[question]time.Time
	more   chan struct{} // has room for one
	denied map[string]bool
}

func newQuestions() *questions {
	return &questions{due: make(map[question]time.Time), more: make(chan struct{}, 1), denied: make(map[string]bool)}
}

func (q *questions) add(about question) {
	if _, ok := q.due[about]; ok {
		return
	}
	q.due[about] = time.Now()
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// next is the first that is due, and else how long that takes.
func (q *questions) next() (first question, wait time.Duration) {
	wait = time.Hour
	for about, at := range q.due {
		if until := time.Until(at); until < wait {
			first, wait = about, until
		}
	}
	return first, wait
}

// ask asks one question after the other until ctx ends.
func (w *watch) ask(ctx context.Context) {
	for ctx.Err() == nil {
		w.mu.Lock()
		about, wait := w.questions.next()
		w.mu.Unlock()
		if wait > 0 {
			select {
			case <-time.After(wait):
			case <-w.questions.more:
			case <-ctx.Done():
			}
			continue
		}
		known, err := w.ownerOf(ctx, about)
		w.answered(about, known, err)
	}
}

// answered tells of the pods that the answer is about, or puts the question off.
func (w *watch) answered(about question, known container.Workload, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.questions.due, about)
	if err == nil {
		w.owners.Add(about, known)
	}
	for uid, p := range w.pods {
		if q, ok := questionAbout(p.facts.Namespace, p.owner); !ok || q != about {
			continue
		}
		if err == nil {
			if owned := p.ownedBy(known); owned != p {
				w.replace(uid, owned)
			}
			continue
		}
		again := w.times.retry
		if isStatus(err, http.StatusForbidden) {
			again = w.times.denied
			w.complain(about, err)
		}
		w.questions.due[about] = time.Now().Add(again)
	}
}

// complain says once for each kind that it may not be read. Its pods are known without their last owner.
func (w *watch) complain(about question, err error) {
	if w.questions.denied[about.resource] {
		return
	}
	w.questions.denied[about.resource] = true
	w.options.Log.Warn("workloads of pods are not known, only what stands between", "source", w.Name(), "resource", about.resource,
		"error", fmt.Sprintf("%s (needs get on %s in the ClusterRole of deploy/kubernetes)", err, about.resource))
}

// metadataOnly leaves out of an object all that is not read. A server that cannot sends the whole.
const metadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"

// path is that of the object.
func (q question) path() string {
	return fmt.Sprintf("/apis/%s/v1/namespaces/%s/%s/%s", q.group, q.namespace, q.resource, q.name)
}

// ownerOf asks for the workload that an owner of a pod belongs to. It is the owner itself if nobody owns
// it, or if it is gone.
func (w *watch) ownerOf(ctx context.Context, q question) (container.Workload, error) {
	itself := clean(map[string]string{"replicasets": "ReplicaSet", "jobs": "Job"}[q.resource], q.name)
	ctx, cancel := context.WithTimeout(ctx, w.times.answer)
	defer cancel()
	body, err := w.open(ctx, q.path(), nil, metadataOnly)
	if isStatus(err, http.StatusNotFound) {
		return itself, nil
	}
	if err != nil {
		return itself, err
	}
	defer body.Close()
	var found struct{ Metadata metadata }
	text, err := io.ReadAll(io.LimitReader(body, maxOwner+1))
	if err == nil && len(text) > maxOwner {
		err = fmt.Errorf("the answer is longer than %d bytes", maxOwner)
	}
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	if err != nil {
		return itself, fmt.Errorf("GET %s: %w", caller.Printable(q.path(), 256), w.explain(ctx, err))
	}
	made := found.Metadata.owner()
	if found.Metadata.UID != q.uid || made.Kind == "" {
		return itself, nil // another one of that name, or its own master
	}
	return clean(made.Kind, made.Name), nil
}

func clean(kind, name string) container.Workload {
	return container.CleanPod(&container.Pod{Workload: container.Workload{Kind: kind, Name: name}}).Workload
}
