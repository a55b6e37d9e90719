package container

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"
)

const (
	// askPatience bounds a question to a source.
	askPatience = 2 * time.Second
	// askAgain is how soon a source is asked again about what it did not know.
	askAgain = 5 * time.Second
	asked    = 256 // ids that wait for an answer
	askers   = 4
	// A source that fails is tried again, at first soon.
	firstPause, longestPause = time.Second, 30 * time.Second
)

// Directory knows containers. It watches its sources, and asks them about what they did not tell of.
type Directory struct {
	log     *slog.Logger
	sources []*source

	mu         sync.Mutex // for writers
	containers *lru.Cache[string, *entry]
	pods       *lru.Cache[string, *held]
	text       int  // of all that is kept
	spared     bool // that was said
	questions  chan string

	stop    context.CancelFunc
	running sync.WaitGroup
}

// entry is one container. It is replaced, never changed.
type entry struct {
	told   []*Container // by source; nil where it told nothing
	pod    *Pod         // that it is in, where that is known apart from it
	merged *Container   // of all; nil if none told
	gone   time.Time    // zero while it is there
	asked  time.Time    // when sources were last asked
}

// source is a Source and how it does.
type source struct {
	Source
	rank  int
	state atomic.Pointer[State]
}

// State is how a source does.
type State struct {
	Source string
	// Ready says that it told of all that there is, and tells of what comes.
	Ready bool
	Error error // why it is not; nil before the first try
	Since time.Time
}

// Open watches sources, those with the most weight first, until Close.
func Open(log *slog.Logger, sources ...Source) *Directory {
	d := &Directory{log: log, questions: make(chan string, asked)}
	// It fails for a size below 1 alone.
	d.containers, _ = lru.NewWithEvict(kept, func(_ string, e *entry) { d.text -= e.text() })
	d.pods, _ = lru.NewWithEvict(kept, func(_ string, h *held) { d.text -= h.pod.text() })
	for rank, s := range sources {
		added := &source{Source: s, rank: rank}
		added.state.Store(&State{Source: s.Name(), Since: time.Now()})
		d.sources = append(d.sources, added)
	}
	var ctx context.Context
	ctx, d.stop = context.WithCancel(context.Background())
	for _, s := range d.sources {
		d.running.Go(func() { d.watch(ctx, s) })
	}
	d.running.Go(func() { d.sweep(ctx) })
	if len(d.sources) > 0 {
		for range askers {
			d.running.Go(func() { d.ask(ctx) })
		}
	}
	return d
}

// Close ends all questions and watches.
func (d *Directory) Close() {
	d.stop()
	d.running.Wait()
}

// States tells how the sources do.
func (d *Directory) States() []State {
	states := make([]State, len(d.sources))
	for i, s := range d.sources {
		states[i] = *s.state.Load()
	}
	return states
}

// Get returns what is known of a container, in the pod that its cgroup names if it does. It never
// waits: sources are asked in the background about what they did not tell of, and a later Get returns
// it. It is nil where nothing is known, and another pointer as soon as more is.
func (d *Directory) Get(id, podUID string) *Container {
	if id == "" && podUID == "" {
		return nil
	}
	e, ok := d.containers.Get(id)
	if id != "" && (!ok || e.wants(time.Now(), len(d.sources))) {
		e = d.query(id, podUID)
	}
	if podUID != "" {
		return d.inPod(id, podUID, e)
	}
	if e == nil {
		return nil
	}
	return e.merged
}

// inPod is for a container in a pod. The cgroup says which pod it is; labels that say otherwise are not
// the kubelet's.
func (d *Directory) inPod(id, podUID string, e *entry) *Container {
	var pod *Pod
	h, ok := d.pods.Get(podUID)
	if ok {
		pod = h.pod
	}
	switch {
	case e != nil && e.pod != nil && (e.pod == pod || !ok && e.pod.UID == podUID):
		return e.merged
	case !ok && (e == nil || e.merged == nil):
		return nil
	case !ok && e.merged.Pod.is(podUID):
		return e.merged
	case !ok:
		pod = &Pod{UID: podUID}
	}
	key := id
	if id == "" {
		key = "pod " + podUID
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	next := &entry{told: make([]*Container, len(d.sources))}
	if e, ok := d.containers.Peek(key); ok {
		if e.pod == pod {
			return e.merged
		}
		*next = *e
		next.merge()
	}
	next.pod = pod
	merged := Container{ID: id}
	if next.merged != nil {
		merged = *next.merged
	}
	if !merged.Pod.is(podUID) {
		merged.Pod = nil
	}
	next.merged = (&merged).with(&Container{Pod: pod, From: []string{"pod"}})
	d.keep(key, next)
	return next.merged
}

// merge puts together what sources told.
func (e *entry) merge() {
	e.merged = nil
	for _, told := range e.told {
		if told != nil {
			e.merged = e.merged.with(told)
		}
	}
}

// wants tells whether sources are to be asked: some have not told of it.
func (e *entry) wants(now time.Time, sources int) bool {
	if !e.gone.IsZero() || now.Sub(e.asked) < askAgain {
		return false
	}
	return sources > 0 && !e.isTold() // the one that runs it knows; the others tell when they come to know
}

// isTold tells whether a source told of it.
func (e *entry) isTold() bool {
	return slices.ContainsFunc(e.told, func(told *Container) bool { return told != nil })
}

// query has the sources asked about a container.
func (d *Directory) query(id, podUID string) *entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	e, ok := d.containers.Peek(id)
	if ok && !e.wants(now, len(d.sources)) {
		return e
	}
	next := &entry{told: make([]*Container, len(d.sources)), asked: now}
	if ok {
		*next = *e
		next.asked = now
	}
	d.keep(id, next)
	select {
	case d.questions <- id:
	default: // it is asked again, with a later call
	}
	return next
}

// ask asks the sources in the order of their weight, until one knows.
func (d *Directory) ask(ctx context.Context) {
	for {
		var id string
		select {
		case id = <-d.questions:
		case <-ctx.Done():
			return
		}
		for _, s := range d.sources {
			one, cancel := context.WithTimeout(ctx, askPatience)
			c, err := s.Inspect(one, id)
			cancel()
			if err == nil {
				d.here(s, c)
				break
			}
			if !errors.Is(err, ErrUnknown) {
				d.log.Debug("a source does not tell of a container", "source", s.Name(), "container_id", id, "error", err.Error())
			}
		}
	}
}

// watch keeps a source watched.
func (d *Directory) watch(ctx context.Context, s *source) {
	pause := firstPause
	for ctx.Err() == nil {
		l := &listener{d: d, s: s, seen: make(map[string]bool), seenPods: make(map[string]bool)}
		err := s.Watch(ctx, l)
		if ctx.Err() != nil {
			return
		}
		if l.ready {
			pause = firstPause
		}
		d.failed(s, err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, longestPause)
	}
}

// failed says so once for each cause.
func (d *Directory) failed(s *source, err error) {
	if err == nil {
		err = errors.New("it ended the watch")
	}
	before := s.state.Load()
	s.state.Store(&State{Source: s.Name(), Error: err, Since: time.Now()})
	switch {
	case !before.Ready && before.Error != nil && before.Error.Error() == err.Error():
	case s.isOptional() && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)):
		d.log.Debug("a source of containers is not there", "source", s.Name(), "error", err.Error())
	default:
		d.log.Warn("containers are not watched: what is known of new ones may be incomplete until they are", "source", s.Name(), "error", err.Error())
	}
}

func (d *Directory) ready(s *source) {
	if before := s.state.Load(); before.Error != nil {
		d.log.Info("containers are watched again", "source", s.Name())
	}
	s.state.Store(&State{Source: s.Name(), Ready: true, Since: time.Now()})
}

func (d *Directory) here(s *source, c *Container) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := &entry{told: make([]*Container, len(d.sources))}
	if e, ok := d.containers.Peek(c.ID); ok {
		next.asked = e.asked
		copy(next.told, e.told)
	}
	next.told[s.rank] = c
	next.merge()
	d.keep(c.ID, next)
}

func (d *Directory) gone(s *source, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, ok := d.containers.Peek(id); ok && e.gone.IsZero() && e.told[s.rank] != nil {
		next := *e
		next.gone = time.Now()
		d.keep(id, &next)
	}
}

func (d *Directory) podGone(s *source, uid string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h, ok := d.pods.Peek(uid); ok && h.gone.IsZero() && h.by == s {
		d.keepPod(uid, &held{pod: h.pod, by: s, gone: time.Now()})
	}
}

// listener is told by one watch of one source.
type listener struct {
	d     *Directory
	s     *source
	ready bool
	// seen are the containers and the pods that it told of before Ready.
	seen, seenPods map[string]bool
}

func (l *listener) Here(c *Container) {
	if !l.ready {
		l.seen[c.ID] = true
	}
	l.d.here(l.s, c)
}

func (l *listener) Gone(id string) { l.d.gone(l.s, id) }

func (l *listener) Pod(p *Pod) {
	if !l.ready {
		l.seenPods[p.UID] = true
	}
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	l.d.keepPod(p.UID, &held{pod: p, by: l.s})
}

func (l *listener) PodGone(uid string) { l.d.podGone(l.s, uid) }

// Ready ends those that went while nobody watched.
func (l *listener) Ready() {
	l.ready = true
	for _, id := range l.d.containers.Keys() {
		if !l.seen[id] {
			l.d.gone(l.s, id)
		}
	}
	for _, uid := range l.d.pods.Keys() {
		if !l.seenPods[uid] {
			l.d.podGone(l.s, uid)
		}
	}
	l.seen, l.seenPods = nil, nil
	l.d.ready(l.s)
}
