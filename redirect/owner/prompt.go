package owner

import (
	"runtime"
	"time"
)

// What a process has open can be made to hang whoever looks at it, for as long as somebody likes: he sends from memory that
// nobody fills in (userfaultfd, FUSE), and the kernel holds the socket's lock meanwhile, for which getsockname waits from Linux
// 5.15, and sock_diag for all sockets before 6.9; or he stays in the midst of exec, for which pidfd_getfd waits. So somebody else
// looks, and is waited for only so long.

const (
	// maxHanging bounds the threads that hang at once. Where so many do, callers are looked for without what can hang.
	maxHanging = 64
	// lookPatience is how long a look may take that takes microseconds.
	lookPatience = 5 * time.Millisecond
)

// promptly looks, and returns false when that hangs or cannot begin. The look goes on then, with nobody to hear of it.
func promptly[T any](f *Finder, look func() T) (seen T, ok bool) {
	if f.hanging.Add(1) > maxHanging {
		f.hanging.Add(-1)
		return seen, false
	}
	answer := make(chan T, 1)
	f.background.Go(func() {
		seen := look()
		f.hanging.Add(-1)
		answer <- seen
	})
	// Mostly it is there once everybody else had his turn: a timer would take longer than that.
	runtime.Gosched()
	select {
	case seen = <-answer:
		return seen, true
	default:
	}
	timer := time.NewTimer(lookPatience)
	defer timer.Stop()
	select {
	case seen = <-answer:
		return seen, true
	case <-timer.C:
		return seen, false
	}
}
