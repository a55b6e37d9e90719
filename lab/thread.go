package lab

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// onThread runs f on an operating system thread of its own. The thread ends with f, unless f gives it
// back with runtime.UnlockOSThread.
func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// The main thread cannot end, and what /proc/self says of the process is what it does. Hold
		// it until f has got another.
		defer runtime.UnlockOSThread()
		elsewhere := make(chan struct{})
		onThread(func() {
			close(elsewhere)
			f()
		})
		<-elsewhere
	}()
}

// run calls f by onThread and waits. A panic or Goexit of f becomes one of the caller.
func run(f func() error) error {
	var (
		err      error
		returned bool
		panicked any
	)
	ended := make(chan struct{})
	onThread(func() {
		defer close(ended)
		defer func() { panicked = recover() }()
		err = f()
		returned = true
	})
	<-ended
	switch {
	case returned:
		return err
	case panicked != nil:
		panic(panicked)
	default:
		runtime.Goexit()
		return nil
	}
}

// enter calls f in a namespace, on the thread of a goroutine that is locked to it. If there is no
// way back the thread stays locked, and dies with its goroutine instead of serving others.
func enter(n *Namespace, f func() error) error {
	home, err := netns.Get()
	if err != nil {
		return fmt.Errorf("open the thread's network namespace: %w", err)
	}
	defer home.Close()
	if err := n.join(); err != nil {
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	defer func() {
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}
