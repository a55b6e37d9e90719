package kubernetes

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
)

// errExpired is for a version that the server does not remember any more.
var errExpired = errors.New("the version is too old")

// watch is one call of Watch.
type watch struct {
	*client

	mu         sync.Mutex // told is called by one at a time, too
	told       container.Listener
	pods       map[string]*pod                 // by UID
	containers map[string]*container.Container // of these pods
	questions  *questions
}

// Watch implements [container.Source]. A pod is told of at once with its own owner, and again when the
// owner's owner is known.
func (s *Source) Watch(ctx context.Context, told container.Listener) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	defer c.transport.CloseIdleConnections()
	w := &watch{
		client: c, told: told, questions: newQuestions(),
		pods: make(map[string]*pod), containers: make(map[string]*container.Container),
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { w.ask(ctx) })

	// What the server has in its cache will do: all nodes may ask at the same time.
	version, err := w.list(ctx, "0")
	if err != nil {
		return err
	}
	s.last.Store(w)
	w.mu.Lock()
	told.Ready()
	w.mu.Unlock()
	for {
		began := time.Now()
		version, err = w.follow(ctx, version)
		if errors.Is(err, errExpired) {
			version, err = w.list(ctx, "")
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(s.times.pause - time.Since(began)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const podsPath = "/api/v1/pods"

// podsQuery asks for the pods of the node.
func (s *Source) podsQuery(version string) url.Values {
	query := url.Values{"fieldSelector": {"spec.nodeName=" + s.options.Node}}
	if version != "" {
		query.Set("resourceVersion", version)
	}
	return query
}

// because says what was not had, and what it needs.
func (w *watch) because(verb string, err error) error {
	hint := ""
	if isStatus(err, http.StatusForbidden) {
		hint = " (needs list and watch on pods in the ClusterRole of deploy/kubernetes)"
	}
	return fmt.Errorf("%s pods of node %s: %w%s", verb, w.options.Node, err, hint)
}

// list tells of all pods, and of those that are gone since. It returns the version that a watch can go
// on from.
func (w *watch) list(ctx context.Context, version string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, w.times.list)
	defer cancel()
	body, err := w.open(ctx, podsPath, w.podsQuery(version), "application/json")
	if err != nil {
		return "", w.because("list", err)
	}
	defer body.Close()
	limited := &io.LimitedReader{R: body, N: w.maxList}
	seen := make(map[string]bool)
	version, err = readList(limited, func(o *podObject) {
		seen[o.Metadata.UID] = true
		w.here(o)
	})
	if err != nil && limited.N <= 0 {
		err = fmt.Errorf("the answer is longer than %d bytes", w.maxList)
	}
	if err != nil {
		return "", w.because("list", w.explain(ctx, err))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for uid := range w.pods {
		if !seen[uid] {
			w.gone(uid)
		}
	}
	return version, nil
}

// readList decodes one pod at a time, so that a long list takes little memory.
func readList(r io.Reader, tell func(*podObject)) (version string, err error) {
	d := json.NewDecoder(r)
	if err := begins(d, '{'); err != nil {
		return "", err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return "", err
		}
		switch name {
		case "metadata":
			var m metadata
			if err := d.Decode(&m); err != nil {
				return "", err
			}
			version = m.ResourceVersion
		case "items":
			if err := readItems(d, tell); err != nil {
				return "", err
			}
		default:
			if err := d.Decode(new(json.RawMessage)); err != nil {
				return "", err
			}
		}
	}
	if _, err := d.Token(); err != nil { // the end: an answer that was cut off is none
		return "", err
	}
	if version == "" {
		return "", errors.New("the list has no version")
	}
	return version, nil
}

func readItems(d *json.Decoder, tell func(*podObject)) error {
	begin, err := d.Token()
	if err != nil || begin == nil { // none may be written as null
		return err
	}
	if begin != json.Delim('[') {
		return errors.New("the list has no items")
	}
	for d.More() {
		var o podObject
		if err := d.Decode(&o); err != nil {
			return err
		}
		tell(&o)
	}
	_, err = d.Token()
	return err
}

func begins(d *json.Decoder, with json.Delim) error {
	token, err := d.Token()
	if err == nil && token != with {
		err = fmt.Errorf("the answer does not begin with %s", with)
	}
	return err
}

// follow tells of what happens after a version until the server ends the watch, which it does after
// some minutes. It returns the version that it came to.
func (w *watch) follow(ctx context.Context, version string) (string, error) {
	long := w.times.watch + rand.N(w.times.watch) // nodes that start together do not stay together
	ctx, cancel := context.WithTimeout(ctx, long+w.times.answer)
	defer cancel()
	query := w.podsQuery(version)
	query.Set("watch", "true")
	query.Set("allowWatchBookmarks", "true")
	query.Set("timeoutSeconds", strconv.Itoa(int(long.Seconds())+1))
	body, err := w.open(ctx, podsPath, query, "application/json")
	if isStatus(err, http.StatusGone) {
		return "", errExpired
	}
	if err != nil {
		return "", w.because("watch", err)
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		at, err := w.happened(lines.Bytes())
		if errors.Is(err, errExpired) {
			return "", err
		}
		if err != nil {
			return "", w.because("watch", err)
		}
		if at != "" {
			version = at
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) { // is how a server ends that restarts
		return "", w.because("watch", w.explain(ctx, err))
	}
	return version, nil
}

// happened tells of what a line of a watch says, and returns the version after it.
func (w *watch) happened(line []byte) (version string, err error) {
	var event struct {
		Type   string
		Object json.RawMessage
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return "", err
	}
	if event.Type == "ERROR" {
		var status struct{ Code int }
		_ = json.Unmarshal(event.Object, &status) // an error it is in any case
		if status.Code == http.StatusGone {
			return "", errExpired
		}
		return "", w.refusal(status.Code, event.Object)
	}
	var o podObject
	if err := json.Unmarshal(event.Object, &o); err != nil {
		return "", fmt.Errorf("event %s: %w", caller.Printable(event.Type, 32), err)
	}
	switch event.Type {
	case "ADDED", "MODIFIED":
		w.here(&o)
	case "DELETED":
		w.here(&o) // may tell of a container that came and went meanwhile
		w.mu.Lock()
		w.gone(o.Metadata.UID)
		w.mu.Unlock()
	}
	return o.Metadata.ResourceVersion, nil // BOOKMARK has that alone
}
