package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

const (
	maxEvent = 1 << 20
	// lookBack is how old the first events may be. A daemon tells of what it remembers: of what came and
	// went while nobody listened, and of what happens before it has begun to listen for us.
	lookBack = time.Minute
	// lookers ask at the same time about what a list or an event does not tell.
	lookers = 2
	// tries are for a question that is not answered.
	tries = 3
)

// watch is one call of Watch.
type watch struct {
	*Source
	questions chan string // ids

	mu     sync.Mutex // told is called by one at a time, too
	told   container.Listener
	states *lru.Cache[string, *state]
}

// state is what is known of one container. It outlives the container, whose facts may still come.
type state struct {
	sketch  *container.Container // replaced, never changed
	imageID string               // "" where events were all that told of it
	image   *image
	looked  bool // the image is known, or known not to be had
	asked   bool // a question is waiting or under way
	gone    bool
}

// container is what is told of it.
func (s *state) container() *container.Container {
	c := complete(s.sketch, s.image)
	c.Partial = !s.looked
	return c
}

// Watch implements [container.Source]. It tells at once what a list and events tell, and again when
// it knows the image.
func (s *Source) Watch(ctx context.Context, told container.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{Source: s, told: told, questions: make(chan string, kept)}
	w.states, _ = lru.New[string, *state](kept) // fails for a size below 1 alone
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)

	if err := s.greet(ctx); err != nil {
		return err
	}
	events, err := s.events(ctx, time.Now().Add(-lookBack)) // before the list, so that nothing comes between
	if err != nil {
		return err
	}
	defer events.Close()
	for range lookers {
		running.Go(func() { w.look(ctx) })
	}
	running.Go(func() { cancel(s.pulseLost(ctx)) })
	if err := s.list(ctx, w.here); err != nil {
		return because(ctx, err)
	}
	w.mu.Lock()
	told.Ready()
	w.mu.Unlock()
	return because(ctx, w.follow(events))
}

// because is why ctx ended, if that is what err comes from.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// pulseLost returns once the daemon does not answer any more. Its events alone would not tell: a daemon
// that hangs is as silent as one that has nothing to tell.
func (s *Source) pulseLost(ctx context.Context) error {
	beat := time.NewTicker(s.pulse)
	defer beat.Stop()
	for {
		select {
		case <-beat.C:
		case <-ctx.Done():
			return nil
		}
		if err := s.ping(ctx); err != nil {
			return err
		}
	}
}

// events subscribes to what happens to containers.
func (s *Source) events(ctx context.Context, since time.Time) (io.ReadCloser, error) {
	query := url.Values{
		"since":   {strconv.FormatInt(since.Unix(), 10)},
		"filters": {`{"type":["container"]}`},
	}
	return s.open(ctx, s.daemon.Load().prefix+"/events?"+query.Encode())
}

// follow reads events until they end.
func (w *watch) follow(events io.Reader) error {
	all := newObjects(events, maxEvent)
	for {
		text, err := all.next()
		if errors.Is(err, errTooLong) {
			continue // of a container with such labels. It can be asked about.
		}
		var e event
		if err == nil {
			err = json.Unmarshal(text, &e)
		}
		switch {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%s has ended its events", w.socket)
		case err != nil:
			return fmt.Errorf("events of %s: %w", w.socket, err)
		}
		w.happened(e)
	}
}

type event struct {
	Type, Action string
	Actor        struct {
		ID         string
		Attributes map[string]string // labels, and more
	}
}

func (w *watch) happened(e event) {
	id := e.Actor.ID
	if e.Type != "container" || !isDigits(id) {
		return
	}
	switch e.Action {
	case "create", "start", "rename", "update":
		f := facts{id: id, name: e.Actor.Attributes["name"], reference: e.Actor.Attributes["image"], labels: e.Actor.Attributes}
		// Docker's and Podman's own. Labels of these names are not told by events.
		for _, own := range []string{"name", "image", "oldName", "exitCode", "execDuration", "containerExitCode", "podId"} {
			delete(f.labels, own)
		}
		w.here(f)
	case "die", "died", "destroy", "remove": // the second ones are Podman's
		w.gone(id)
	}
}

// here tells of a container, with what is known of its image already.
func (w *watch) here(f facts) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.states.Get(f.id)
	if !ok {
		s = &state{sketch: w.sketch(f), imageID: f.imageID}
		w.states.Add(f.id, s)
	}
	if f.name != "" {
		s.sketch = named(s.sketch, container.Clean(&container.Container{Name: f.name}).Name)
	}
	s.gone = false
	w.told.Here(s.container())
	w.ask(f.id, s)
}

func (w *watch) gone(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s, ok := w.states.Peek(id); ok {
		s.gone = true
	}
	w.told.Gone(id)
}

func named(c *container.Container, name string) *container.Container {
	if c.Name == name {
		return c
	}
	renamed := *c
	renamed.Name = name
	return &renamed
}

// ask has a container looked at, unless it was.
func (w *watch) ask(id string, s *state) {
	if s.looked || s.asked {
		return
	}
	select {
	case w.questions <- id:
		s.asked = true
	default: // more than are remembered
	}
}

// look looks at containers until ctx ends.
func (w *watch) look(ctx context.Context) {
	for {
		select {
		case id := <-w.questions:
			w.lookAt(ctx, id)
		case <-ctx.Done():
			return
		}
	}
}

func (w *watch) lookAt(ctx context.Context, id string) {
	s, ok := w.states.Peek(id)
	if !ok {
		return // others came since
	}
	pause := w.patience / 10
	for try := range tries {
		if err := w.complete(ctx, id, s); err == nil || errors.Is(err, container.ErrUnknown) || try == tries-1 {
			break
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause *= 2
	}
	w.mu.Lock()
	s.asked = false // the next event asks again if need be
	w.mu.Unlock()
}

// complete asks for what is not known of a container, and tells of it.
func (w *watch) complete(ctx context.Context, id string, s *state) error {
	w.mu.Lock()
	sketch, imageID := s.sketch, s.imageID
	w.mu.Unlock()
	// A list has no name of an image that is no longer the one of that name.
	if imageID == "" || sketch.Image.Name == "" {
		f, err := w.inspect(ctx, id)
		if err != nil {
			return err
		}
		sketch, imageID = w.sketch(f), f.imageID
	}
	i, err := w.image(ctx, imageID)
	w.mu.Lock()
	defer w.mu.Unlock()
	// Events come in order, and may have told of another name since.
	if now := s.sketch.Name; now != "" {
		sketch = named(sketch, now)
	}
	s.sketch, s.imageID, s.image, s.looked = sketch, imageID, i, err == nil
	w.told.Here(s.container())
	if s.gone {
		w.told.Gone(id)
	}
	return err
}
