package kubernetes

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/container/containertest"
)

// told records what a source tells.
type told struct {
	mu    sync.Mutex
	ready int
	here  map[string]*container.Container
	gone  map[string]bool
	pods  map[string]*container.Pod
	count map[string]int // of calls, by id or UID
}

// watched watches a source till the end of the test, or until the function is called that returns how it
// ended.
func watched(t *testing.T, s container.Source) (*told, func() error) {
	t.Helper()
	l := &told{
		here: make(map[string]*container.Container), gone: make(map[string]bool),
		pods: make(map[string]*container.Pod), count: make(map[string]int),
	}
	return l, containertest.Watch(t, s, l)
}

func (l *told) Ready() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready++
}

func (l *told) Here(c *container.Container) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.here[c.ID], l.gone[c.ID] = c, false
	l.count[c.ID]++
}

func (l *told) Gone(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone[id] = true
}

func (l *told) Pod(p *container.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pods[p.UID] = p
	l.count[p.UID]++
}

func (l *told) PodGone(uid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone[uid] = true
}

// await waits until what was told satisfies a test.
func (l *told) await(t *testing.T, what string, test func() bool) {
	t.Helper()
	l.awaitFor(t, 20*time.Second, what, test)
}

func (l *told) awaitFor(t *testing.T, patience time.Duration, what string, test func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		ok := test()
		l.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			l.mu.Lock()
			defer l.mu.Unlock()
			text := ""
			for id, c := range l.here {
				text += fmt.Sprintf("\n%s gone=%t %+v %+v", id, l.gone[id], c, c.Pod)
			}
			t.Fatalf("not %s; ready %d times; told of%s", what, l.ready, text)
		}
	}
}

func (l *told) awaitReady(t *testing.T) {
	t.Helper()
	l.await(t, "ready", func() bool { return l.ready > 0 })
}
