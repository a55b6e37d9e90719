package kubernetes

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

// A mirror of a static pod that is made anew has another UID, besides the one that the kubelet gave. That one
// is gone with the last of them.
func TestPodsGo(t *testing.T) {
	t.Parallel()
	mirror := func(uid string) string {
		return fmt.Sprintf(`{"metadata":{"name":"p","namespace":"n","uid":%q,"resourceVersion":"8",`+
			`"annotations":{%q:%q,%q:%[3]q},"ownerReferences":[{"kind":"Node","name":"node-1","controller":true}]}}`,
			uid, mirrored, staticUID, configHash)
	}
	event := func(kind, uid string) string { return fmt.Sprintf(`{"type":%q,"object":%s}`, kind, mirror(uid)) + "\n" }
	for events, isGone := range map[string]bool{
		event("ADDED", "second") + event("DELETED", "first"): false,
		event("DELETED", "first"):                            true,
	} {
		f := newFake(t)
		f.lists = handlers(say(http.StatusOK, listOf(mirror("first"))))
		f.watches = handlers(say(http.StatusOK, events+event("ADDED", "last")), hang)
		l, _ := watched(t, f.source(io.Discard))
		l.await(t, "told", func() bool { return l.pods["last"] != nil })
		l.mu.Lock()
		if !l.gone["first"] || l.gone[staticUID] != isGone || l.gone["second"] {
			t.Errorf("%s: %v are gone", events, l.gone)
		}
		l.mu.Unlock()
	}
}
