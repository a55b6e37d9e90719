package software

import (
	"context"
	"time"
)

// begin notes that p is looked at, if it may be.
func (f *Finder) begin(p *process) bool {
	img, uid := imageOf(p.caller), p.caller.UID
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, begun := f.underWay[img]; begun {
		return false
	}
	ofUser := 0
	for _, other := range f.underWay {
		if other == uid {
			ofUser++
		}
	}
	if len(f.underWay) >= maxUnderWay || ofUser >= maxOfUser {
		f.dropped.Add(1)
		return false
	}
	f.underWay[img] = uid
	return true
}

// await looks at p, for maxLook at most. Any file of p can be of a file system that never answers: nothing
// ends the look then, and it closes p when it comes back.
func (f *Finder) await(p *process) {
	pid, exe := p.caller.PID, p.caller.Executable
	ctx, cancel := context.WithTimeout(f.ctx, f.maxLook)
	done := make(chan struct{})
	f.working.Go(func() {
		defer close(done)
		defer cancel()
		f.look(ctx, p, false)
		p.close()
		f.mu.Lock()
		delete(f.underWay, imageOf(p.caller))
		f.mu.Unlock()
	})
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	select { // what only had much to do ends soon
	case <-done:
	case <-f.ctx.Done():
	case <-time.After(f.maxLook / 10):
		f.warned.Do(func() {
			f.log.Warn("the files of a caller cannot be read: their file system does not answer; what it runs stays unknown", "pid", pid, "executable", exe)
		})
	}
}
