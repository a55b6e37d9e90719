package kubernetes

import (
	"reflect"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

// here tells of what is new in a pod.
func (w *watch) here(o *podObject) {
	if o.Metadata.UID == "" {
		return
	}
	p := newPod(o, w.options.Node)
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.pods[o.Metadata.UID]; !ok && len(w.pods) >= kept {
		return
	}
	if q, ok := questionAbout(o.Metadata.Namespace, p.owner); ok {
		if known, ok := w.owners.Get(q); ok {
			p = p.ownedBy(known)
		} else {
			w.questions.add(q)
		}
	}
	w.replace(o.Metadata.UID, p)
}

// replace tells what a pod has that it had not before. The pod is one that nobody was told of: a pod
// changes many times for reasons that do not matter here, and keeps what it has then.
func (w *watch) replace(uid string, p *pod) {
	before := w.pods[uid]
	if before == nil {
		before = &pod{}
	}
	if p.alias != "" && w.isTaken(p) {
		p.alias = ""
	}
	w.pods[uid] = p
	if !reflect.DeepEqual(p.facts, before.facts) || p.alias != before.alias {
		w.told.Pod(p.facts)
		if p.alias != "" {
			known := *p.facts
			known.UID = p.alias
			w.told.Pod(&known)
		}
	}
	for id, c := range p.containers {
		known, ok := before.containers[id]
		if ok && known.Image.Digest+known.Image.ID != "" {
			c.Image = known.Image // that of the specification may be another by now
		}
		if ok && p.running[id] == before.running[id] && reflect.DeepEqual(c, known) {
			p.containers[id] = known
			continue
		}
		w.container(id, c, p.running[id])
	}
	for id := range before.containers {
		if p.containers[id] == nil {
			w.told.Gone(id)
			delete(w.containers, id)
		}
	}
}

func (w *watch) container(id string, c *container.Container, running bool) {
	if _, ok := w.containers[id]; ok || len(w.containers) < kept {
		w.containers[id] = c
	}
	w.told.Here(c)
	if !running {
		w.told.Gone(id)
	}
}

// isTaken tells whether a pod of another name has its alias.
func (w *watch) isTaken(p *pod) bool {
	for _, other := range w.pods {
		if other.alias == p.alias && (other.facts.Name != p.facts.Name || other.facts.Namespace != p.facts.Namespace) {
			return true
		}
	}
	return false
}

// gone tells that a pod is no more.
func (w *watch) gone(uid string) {
	p, ok := w.pods[uid]
	if !ok {
		return
	}
	delete(w.pods, uid)
	w.told.PodGone(uid)
	if p.alias != "" && !w.isShared(p.alias) {
		w.told.PodGone(p.alias)
	}
	for id := range p.containers {
		w.told.Gone(id)
		delete(w.containers, id)
	}
}

// isShared tells whether a pod has an alias: a mirror that was made anew has the one of the mirror before.
func (w *watch) isShared(alias string) bool {
	for _, p := range w.pods {
		if p.alias == alias {
			return true
		}
	}
	return false
}
