package container

import (
	"context"
	"slices"
	"time"
)

const (
	// kept bounds the containers and the pods that are remembered, those gone included.
	kept = 4096
	// keptText bounds the labels and annotations of all of them, in bytes.
	keptText = 16 << 20
	// goneFor is how long a container is known that is gone: its calls are still told of.
	goneFor = 10 * time.Minute
	// sweepEvery is how often those are dropped that are gone for longer.
	sweepEvery = time.Minute
)

// held is one pod. It is replaced, never changed.
type held struct {
	pod  *Pod
	by   *source   // that told of it
	gone time.Time // zero while it is there
}

// keep puts an entry into the place of what was known of the container.
func (d *Directory) keep(id string, e *entry) {
	if before, ok := d.containers.Peek(id); ok {
		d.text -= before.text()
	}
	d.text += e.text()
	d.containers.Add(id, e)
	d.spare()
}

func (d *Directory) keepPod(uid string, h *held) {
	if before, ok := d.pods.Peek(uid); ok {
		d.text -= before.pod.text()
	}
	d.text += h.pod.text()
	d.pods.Add(uid, h)
	d.spare()
}

// sweep forgets until ctx ends.
func (d *Directory) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.mu.Lock()
			d.forget()
			d.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// forget drops those that are gone for long, and those that nobody knows or asks for.
func (d *Directory) forget() {
	since := time.Now().Add(-goneFor)
	for _, uid := range d.pods.Keys() {
		if h, ok := d.pods.Peek(uid); ok && !h.gone.IsZero() && h.gone.Before(since) {
			d.pods.Remove(uid)
		}
	}
	for _, id := range d.containers.Keys() {
		e, ok := d.containers.Peek(id)
		if !ok {
			continue
		}
		isGone := !e.gone.IsZero() && e.gone.Before(since)
		isNobodys := !e.isTold() && e.asked.Before(since) && (e.pod == nil || !d.pods.Contains(e.pod.UID))
		if isGone || isNobodys {
			d.containers.Remove(id)
		}
	}
}

// spare makes room where there is too much text: first those go that are gone, the first to go first, then
// those that live lose their labels, the one that called last at the end of them. It makes more room than
// is needed, so that it is seldom called for.
func (d *Directory) spare() {
	if d.text <= keptText {
		return
	}
	if d.free(d.gonest()) {
		return
	}
	if !d.spared {
		d.spared = true
		d.log.Warn("labels and annotations of some containers are not kept: there is too much of them", "limit_bytes", keptText)
	}
	d.free(d.idlest())
}

// free makes room step by step, and tells whether there is enough.
func (d *Directory) free(steps []func()) bool {
	const enough = keptText / 4 * 3
	for _, step := range steps {
		if d.text <= enough {
			break
		}
		step()
	}
	return d.text <= enough
}

// gonest forgets those that are gone, the first to go first.
func (d *Directory) gonest() (steps []func()) {
	type departed struct {
		at     time.Time
		forget func()
	}
	var all []departed
	for _, id := range d.containers.Keys() {
		if e, ok := d.containers.Peek(id); ok && !e.gone.IsZero() {
			all = append(all, departed{e.gone, func() { d.containers.Remove(id) }})
		}
	}
	for _, uid := range d.pods.Keys() {
		if h, ok := d.pods.Peek(uid); ok && !h.gone.IsZero() {
			all = append(all, departed{h.gone, func() { d.pods.Remove(uid) }})
		}
	}
	slices.SortStableFunc(all, func(a, b departed) int { return a.at.Compare(b.at) })
	for _, one := range all {
		steps = append(steps, one.forget)
	}
	return steps
}

// idlest takes the labels of containers and pods in turn, those first that were not asked about for the longest.
func (d *Directory) idlest() (steps []func()) {
	var pods []func()
	for _, uid := range d.pods.Keys() {
		if h, ok := d.pods.Peek(uid); ok && h.pod.text() > 0 {
			pods = append(pods, func() {
				d.text -= h.pod.text()
				d.pods.Add(uid, &held{pod: h.pod.plain(), by: h.by, gone: h.gone})
			})
		}
	}
	for _, id := range d.containers.Keys() {
		if e, ok := d.containers.Peek(id); ok && e.text() > 0 {
			steps = append(steps, func() {
				d.text -= e.text()
				d.containers.Add(id, e.plain())
			})
			if len(pods) > 0 {
				steps, pods = append(steps, pods[0]), pods[1:]
			}
		}
	}
	return append(steps, pods...)
}

// text is how much the labels and annotations take. Sources and pods share some of it, which is counted twice.
func (e *entry) text() int {
	sum := e.pod.text()
	for _, told := range e.told {
		if told != nil {
			sum += lengthOf(told.Labels) + told.Pod.text()
		}
	}
	return sum
}

func (p *Pod) text() int {
	if p == nil {
		return 0
	}
	return lengthOf(p.Labels) + lengthOf(p.Annotations)
}

// lengthOf counts what a map needs for each of its entries, too.
func lengthOf(labels map[string]string) (sum int) {
	const each = 64
	for key, value := range labels {
		sum += len(key) + len(value) + each
	}
	return sum
}

// plain is without labels and annotations. The pod that the cgroup names is put to it again with the next call.
func (e *entry) plain() *entry {
	plain := *e
	plain.pod = nil
	plain.told = slices.Clone(e.told)
	for i, told := range plain.told {
		if told != nil {
			c := *told
			c.Labels, c.Pod = nil, c.Pod.plain()
			plain.told[i] = &c
		}
	}
	plain.merge()
	return &plain
}

func (p *Pod) plain() *Pod {
	if p == nil {
		return nil
	}
	plain := *p
	plain.Labels, plain.Annotations = nil, nil
	return &plain
}
