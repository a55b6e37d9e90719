package container

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// One that lives for long, and never calls, does not keep what went since.
func TestGoneAreForgottenThoughOlderOnesLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		docker := newFake("docker")
		d := open(t, nil, docker)
		docker.begin(&Container{ID: "lives"})
		docker.tell(func(l Listener) {
			for n := range kept - 2 {
				l.Here(&Container{ID: fmt.Sprint(n)})
				l.Gone(fmt.Sprint(n))
			}
			l.Here(&Container{ID: "0"}) // started again
		})
		time.Sleep(goneFor - time.Second)
		if n := d.containers.Len(); n != kept-1 {
			t.Errorf("%d are known, want those that went too", n)
		}
		time.Sleep(sweepEvery + time.Second)
		synctest.Wait()
		if n := d.containers.Len(); n != 2 || d.Get("lives", "") == nil || d.Get("0", "") == nil {
			t.Errorf("%d are known, want the two that live", n)
		}
	})
}

func TestWhatNobodyKnowsIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		docker := newFake("docker")
		d := open(t, nil, docker)
		docker.begin()
		for n := range 100 {
			d.Get(fmt.Sprint(n), "u")
		}
		time.Sleep(goneFor + sweepEvery + time.Second)
		synctest.Wait()
		if n := d.containers.Len(); n != 0 {
			t.Errorf("%d are known", n)
		}
	})
}

func TestPodsThatAreGoneAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kubernetes, docker := newFake("kubernetes"), newFake("docker")
		d := open(t, nil, kubernetes, docker)
		tellOf := func(l Listener) {
			for n := range 1000 {
				l.Pod(&Pod{UID: fmt.Sprint(n), Name: "p"})
			}
		}
		kubernetes.watches <- func(l Listener) error {
			tellOf(l)
			l.Ready()
			return nil
		}
		docker.begin() // which has no pods, and says nothing of those of others
		for n := range 1000 {
			d.Get("", fmt.Sprint(n))
		}
		kubernetes.tell(func(l Listener) {
			for n := range 999 {
				l.PodGone(fmt.Sprint(n))
			}
			l.Pod(&Pod{UID: "0", Name: "p"}) // is there after all
		})
		time.Sleep(goneFor - time.Second)
		if got := d.Get("", "1"); got == nil || got.Pod.Name != "p" {
			t.Errorf("forgotten too soon: %+v", got)
		}
		time.Sleep(sweepEvery + time.Second)
		synctest.Wait()
		if n := d.pods.Len() + d.containers.Len(); n != 4 || d.Get("", "0") == nil || d.Get("", "999") == nil || d.Get("", "1") != nil {
			t.Errorf("%d are known: %v %v", n, d.pods.Keys(), d.containers.Keys())
		}
	})
}

func TestPodThatWentWhileNobodyWatchedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kubernetes := newFake("kubernetes")
		d := open(t, nil, kubernetes)
		l := &listener{d: d, s: d.sources[0], seen: make(map[string]bool), seenPods: make(map[string]bool)}
		l.Pod(&Pod{UID: "stays"})
		l.Pod(&Pod{UID: "goes"})
		l.Ready()
		l = &listener{d: d, s: d.sources[0], seen: make(map[string]bool), seenPods: make(map[string]bool)}
		l.Pod(&Pod{UID: "stays"})
		l.Ready()
		time.Sleep(goneFor + sweepEvery + time.Second)
		synctest.Wait()
		if d.pods.Contains("goes") || !d.pods.Contains("stays") {
			t.Errorf("%v are known", d.pods.Keys())
		}
	})
}

// verbose has as many labels and annotations as one may have, as long as they may be.
func verbose(n int) *Container {
	labels := make(map[string]string)
	for i := range maxLabels {
		labels[fmt.Sprintf("%05d-%02d", n, i)+strings.Repeat("k", 240)] = strings.Repeat("v", 250)
	}
	return Clean(&Container{ID: fmt.Sprint(n), Name: "name", Labels: labels, Pod: &Pod{UID: fmt.Sprint("u", n), Name: "pod", Labels: labels, Annotations: labels}})
}

func TestTextIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kubernetes := newFake("kubernetes")
		var log strings.Builder
		d := open(t, &log, kubernetes)
		lives := verbose(-1)
		kubernetes.begin(lives)
		within := func() {
			t.Helper()
			d.mu.Lock()
			defer d.mu.Unlock()
			text := 0
			for _, e := range d.containers.Values() {
				text += e.text()
			}
			for _, h := range d.pods.Values() {
				text += h.pod.text()
			}
			if text != d.text || text > keptText {
				t.Errorf("%d bytes are kept, and %d counted", text, d.text)
			}
		}
		kubernetes.tell(func(l Listener) {
			for n := range 1000 {
				c := verbose(n)
				l.Pod(c.Pod)
				l.Here(c)
				l.Gone(c.ID)
				l.PodGone(c.Pod.UID)
				time.Sleep(time.Millisecond)
			}
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		within()
		if got := d.Get(lives.ID, ""); got != lives {
			t.Errorf("one that lives lost its labels to those that went: %d", len(got.Labels))
		}
		if d.containers.Contains("0") || !d.containers.Contains("999") || log.Len() != 0 {
			t.Errorf("the first to go is not the first to be forgotten: %s", &log)
		}
		kubernetes.tell(func(l Listener) {
			for n := 1000; n < 2000; n++ {
				c := verbose(n)
				l.Pod(c.Pod)
				l.Here(c)
				if got := d.Get(c.ID, c.Pod.UID); len(got.Labels) != maxLabels || len(got.Pod.Annotations) != maxLabels {
					t.Fatalf("one that calls has %d labels", len(got.Labels))
				}
				d.Get(lives.ID, "")
			}
		})
		within()
		if got := d.Get("1000", "u1000"); got.Name != "name" || got.Pod.Name != "pod" || len(got.Labels)+len(got.Pod.Labels) != 0 {
			t.Errorf("%+v", got)
		}
		if got := d.Get("1999", "u1999"); len(got.Labels) != maxLabels {
			t.Error("the one that called last lost its labels")
		}
		if got := d.Get(lives.ID, ""); len(got.Labels) != maxLabels {
			t.Error("one that calls all the time lost its labels")
		}
		if n := strings.Count(log.String(), "not kept"); n != 1 {
			t.Errorf("said %d times", n)
		}
		for _, id := range d.containers.Keys() {
			d.gone(d.sources[0], id)
		}
		for _, uid := range d.pods.Keys() {
			d.podGone(d.sources[0], uid)
		}
		within()
		time.Sleep(goneFor + sweepEvery + time.Second)
		synctest.Wait()
		if d.text != 0 || d.containers.Len()+d.pods.Len() != 0 {
			t.Errorf("%d bytes are kept of %d", d.text, d.containers.Len())
		}
	})
}
