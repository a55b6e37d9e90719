package cri

import (
	"sync"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/container/containertest"
)

// told records what a source tells.
type told struct {
	ready chan struct{}
	mu    sync.Mutex
	here  map[string]*container.Container
	gone  map[string]bool
	times map[string]int // that it was told
}

// watched watches a source till the end of the test, or until the function is called that returns how it
// ended.
func watched(t *testing.T, s container.Source) (*told, func() error) {
	t.Helper()
	l := &told{ready: make(chan struct{}), here: make(map[string]*container.Container), gone: make(map[string]bool), times: make(map[string]int)}
	return l, containertest.Watch(t, s, l)
}

func (l *told) Ready() { close(l.ready) }

func (l *told) Here(c *container.Container) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.here[c.ID], l.gone[c.ID] = c, false
	l.times[c.ID]++
}

func (l *told) Gone(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone[id] = true
}

func (l *told) Pod(*container.Pod) {}
func (l *told) PodGone(string)     {}

// of returns what was told of a container at last.
func (l *told) of(id string) (c *container.Container, gone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.here[id], l.gone[id]
}

func (l *told) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.here)
}

// await waits until something was told of a container, and whether it is gone.
func (l *told) await(t *testing.T, id string, gone bool) *container.Container {
	t.Helper()
	var c *container.Container
	await(t, "told of "+id, func() bool {
		var isGone bool
		c, isGone = l.of(id)
		return c != nil && isGone == gone
	})
	return c
}

func (l *told) awaitReady(t *testing.T) {
	t.Helper()
	select {
	case <-l.ready:
	case <-time.After(20 * time.Second):
		t.Fatal("not ready")
	}
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}
