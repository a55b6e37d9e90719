package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a source that a test speaks through.
type fake struct {
	name     string
	watches  chan func(Listener) error // one for each call of Watch; it may be told more after that
	tells    chan func(Listener)
	inspect  func(ctx context.Context, id string) (*Container, error)
	inspects atomic.Int64
}

func newFake(name string) *fake {
	return &fake{name: name, watches: make(chan func(Listener) error, 10), tells: make(chan func(Listener), 10),
		inspect: func(context.Context, string) (*Container, error) { return nil, ErrUnknown }}
}

func (f *fake) Name() string { return f.name }

func (f *fake) Watch(ctx context.Context, told Listener) error {
	select {
	case begin := <-f.watches:
		if err := begin(told); err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		select {
		case tell := <-f.tells:
			tell(told)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fake) Inspect(ctx context.Context, id string) (*Container, error) {
	f.inspects.Add(1)
	return f.inspect(ctx, id)
}

func (f *fake) begin(there ...*Container) {
	f.watches <- func(l Listener) error {
		for _, c := range there {
			l.Here(c)
		}
		l.Ready()
		return nil
	}
	synctest.Wait()
}

func (f *fake) tell(tell func(Listener)) {
	f.tells <- tell
	synctest.Wait()
}

// open is for the inside of a bubble, whose clock is its own.
func open(t *testing.T, log *strings.Builder, sources ...Source) *Directory {
	if log == nil {
		log = &strings.Builder{}
	}
	d := Open(slog.New(slog.NewTextHandler(log, nil)), sources...)
	t.Cleanup(d.Close)
	return d
}

func TestFactsOfSeveralSourcesAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		docker, ecs := newFake("docker"), newFake("ecs")
		d := open(t, nil, docker, ecs)
		docker.begin(&Container{ID: "a", Name: "web", Runtime: "docker", Image: Image{Name: "nginx", Tag: "1"}, Labels: map[string]string{"x": "docker"}, From: []string{"docker"}})
		first := d.Get("a", "")
		if first == nil || first.Name != "web" || first.Task != nil {
			t.Fatalf("%+v", first)
		}
		if again := d.Get("a", ""); again != first {
			t.Error("another pointer, though nothing is new")
		}
		ecs.begin(&Container{ID: "a", Name: "other", Task: &Task{Family: "f"}, Labels: map[string]string{"x": "ecs", "y": "ecs"}, From: []string{"ecs"}})
		got := d.Get("a", "")
		if got.Name != "web" || got.Task.Family != "f" || got.Image.Tag != "1" || fmt.Sprint(got.From) != "[docker ecs]" ||
			got.Labels["x"] != "docker" || got.Labels["y"] != "ecs" {
			t.Errorf("%+v", got)
		}
		if first.Task != nil || first.Labels["y"] != "" || len(first.From) != 1 {
			t.Errorf("what was handed out has changed: %+v", first)
		}
	})
}

func TestUnknownContainerIsAskedForInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		docker := newFake("docker")
		docker.inspect = func(ctx context.Context, id string) (*Container, error) {
			time.Sleep(time.Second)
			return &Container{ID: id, Name: "found"}, nil
		}
		d := open(t, nil, docker)
		docker.begin()
		began := time.Now()
		if c := d.Get("a", ""); c != nil || time.Since(began) != 0 {
			t.Errorf("%+v after %s", c, time.Since(began))
		}
		d.Get("a", "")
		time.Sleep(1100 * time.Millisecond)
		if c := d.Get("a", ""); c == nil || c.Name != "found" || docker.inspects.Load() != 1 {
			t.Errorf("%+v, asked %d times", c, docker.inspects.Load())
		}
	})
}

func TestContainerThatNobodyKnowsIsAskedForNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		docker := newFake("docker")
		d := open(t, nil, docker)
		docker.begin()
		for range 1000 {
			d.Get("a", "")
			time.Sleep(10 * time.Millisecond)
		}
		if n := docker.inspects.Load(); n != 2 {
			t.Errorf("asked %d times in 10 s", n)
		}
	})
}

func TestSourceThatHangsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs, works := newFake("docker"), newFake("cri")
		hangs.inspect = func(ctx context.Context, _ string) (*Container, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		works.inspect = func(_ context.Context, id string) (*Container, error) { return &Container{ID: id}, nil }
		d := open(t, nil, hangs, works)
		works.begin()
		began := time.Now()
		for n := range 10_000 { // more than may wait
			if d.Get(fmt.Sprint(n), "") != nil {
				t.Fatal("known at once")
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("took %s", took)
		}
		time.Sleep(askPatience + time.Millisecond)
		if d.Get("0", "") == nil {
			t.Error("the second source was not asked in time")
		}
	})
}

func TestContainerThatIsGoneIsKnownForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		docker := newFake("docker")
		d := open(t, nil, docker)
		docker.begin(&Container{ID: "a"}, &Container{ID: "b"})
		docker.tell(func(l Listener) { l.Gone("a") })
		time.Sleep(goneFor - time.Second)
		if d.Get("a", "") == nil {
			t.Error("forgotten too soon")
		}
		d.Get("b", "")
		time.Sleep(sweepEvery + 2*time.Second)
		docker.tell(func(l Listener) { l.Gone("b") })
		if d.containers.Contains("a") || !d.containers.Contains("b") {
			t.Error("kept for too long, or not long enough")
		}
	})
}

func TestSourceIsWatchedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		docker := newFake("docker")
		var log strings.Builder
		d := open(t, &log, docker)
		docker.begin(&Container{ID: "went meanwhile"}, &Container{ID: "stays"})
		if s := d.States()[0]; !s.Ready || s.Error != nil {
			t.Errorf("%+v", s)
		}
		broken := errors.New("socket closed")
		for range 3 {
			docker.watches <- func(Listener) error { return broken }
		}
		d.stop() // ends the watch that goes on; the next context is a test's own
		d.running.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		d.running.Go(func() { d.watch(ctx, d.sources[0]) })
		d.stop = cancel
		time.Sleep(3500 * time.Millisecond) // after pauses of 1 s and 2 s
		synctest.Wait()
		if s := d.States()[0]; s.Ready || !errors.Is(s.Error, broken) {
			t.Errorf("%+v", s)
		}
		if n := strings.Count(log.String(), "not watched"); n != 1 {
			t.Errorf("said %d times: %s", n, log.String())
		}
		docker.begin(&Container{ID: "stays"}, &Container{ID: "new"})
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if !d.States()[0].Ready || !strings.Contains(log.String(), "watched again") {
			t.Errorf("%+v: %s", d.States()[0], log.String())
		}
		for id, wantGone := range map[string]bool{"went meanwhile": true, "stays": false, "new": false} {
			if e, ok := d.containers.Peek(id); !ok || e.gone.IsZero() == wantGone {
				t.Errorf("%s: %+v", id, e)
			}
		}
	})
}

func TestPodIsKnownBeforeItsContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kubernetes := newFake("kubernetes")
		d := open(t, nil, kubernetes)
		kubernetes.begin()
		kubernetes.tell(func(l Listener) { l.Pod(&Pod{UID: "u", Name: "p", ServiceAccount: "s"}) })
		for _, id := range []string{"a", ""} {
			got := d.Get(id, "u")
			if got == nil || got.ID != id || got.Pod.Name != "p" {
				t.Errorf("%q: %+v", id, got)
			}
			if again := d.Get(id, "u"); again != got {
				t.Errorf("%q: another pointer, though nothing is new", id)
			}
		}
		kubernetes.tell(func(l Listener) { l.Here(&Container{ID: "a", Pod: &Pod{UID: "u", Name: "p", Container: "web"}}) })
		if got := d.Get("a", "u"); got.Pod.Container != "web" {
			t.Errorf("%+v", got.Pod)
		}
		kubernetes.tell(func(l Listener) { l.Here(&Container{ID: "c", Name: "n", Pod: &Pod{UID: "forged", Name: "other"}}) })
		for range 2 {
			if got := d.Get("c", "u"); got.Name != "n" || got.Pod.Name != "p" || got.Pod.UID != "u" {
				t.Errorf("labels are believed against the cgroup: %+v", got.Pod)
			}
		}
		kubernetes.tell(func(l Listener) {
			l.Here(&Container{ID: "d", Pod: &Pod{UID: "u", Name: "p", Container: "web"}})
			l.Here(&Container{ID: "e", Name: "n", Pod: &Pod{UID: "forged", Name: "other"}})
		})
		if got := d.Get("d", "u"); got.Pod.Container != "web" || got.Pod.ServiceAccount != "s" {
			t.Errorf("what the pod is known by is lost: %+v", got.Pod)
		}
		if got := d.Get("e", "nobody told of"); got.Pod.Name != "" || got.Pod.UID != "nobody told of" || d.Get("e", "nobody told of") != got {
			t.Errorf("labels are believed against the cgroup: %+v", got.Pod)
		}
		if d.Get("", "") != nil || d.Get("b", "unknown") != nil {
			t.Error("something is known of nothing")
		}
	})
}

func TestImageReference(t *testing.T) {
	t.Parallel()
	const digest = "sha256:0123"
	for reference, want := range map[string]Image{
		"nginx":                          {Name: "nginx"},
		"nginx:1.25":                     {Name: "nginx", Tag: "1.25"},
		"registry:5000/a/b":              {Name: "registry:5000/a/b"},
		"registry:5000/a/b:v1":           {Name: "registry:5000/a/b", Tag: "v1"},
		"registry:5000/a/b:v1@" + digest: {Name: "registry:5000/a/b", Tag: "v1", Digest: digest},
		"public.ecr.aws/x@" + digest:     {Name: "public.ecr.aws/x", Digest: digest},
		digest:                           {ID: digest},
		"":                               {},
	} {
		if got := ParseImage(reference); got != want {
			t.Errorf("%s: %+v", reference, got)
		}
	}
}

func TestHostileLabelsAreHarmless(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"evil\x1b[2J\n": strings.Repeat("x", 100<<10) + "\r\n"}
	for n := range 1000 {
		labels[fmt.Sprint("z", n)] = "\xff\u202e"
	}
	c := Clean(&Container{ID: "a", Name: "n\nl", Labels: labels, Pod: &Pod{Name: "\x1b", Annotations: labels}, Task: &Task{Family: "\x00"}})
	if len(c.Labels) != maxLabels || len(c.Pod.Annotations) != maxLabels {
		t.Errorf("%d labels, %d annotations", len(c.Labels), len(c.Pod.Annotations))
	}
	for key, value := range c.Labels {
		if strings.ContainsAny(key+value, "\x1b\n\r\x00") || len(key) > maxText || len(value) > maxText || strings.Contains(value, "\xff") {
			t.Errorf("%q: %q", key, value)
		}
	}
	if text := c.Name + c.Pod.Name + c.Task.Family; strings.ContainsAny(text, "\n\x1b\x00") {
		t.Errorf("%q", text)
	}
}

// What is named should be there; what is looked for where it usually is may be away.
func TestOptionalSourceMayBeAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, optional := range []bool{false, true} {
			f := newFake("docker")
			source := Source(f)
			if optional {
				source = Optional(f)
			}
			var log strings.Builder
			open(t, &log, source)
			f.watches <- func(Listener) error { return fmt.Errorf("dial: %w", fs.ErrNotExist) }
			synctest.Wait()
			if warned := strings.Contains(log.String(), "containers are not watched"); warned == optional {
				t.Errorf("optional %t: %s", optional, &log)
			}
		}
	})
}
