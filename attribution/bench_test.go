package attribution

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
)

// full knows of many containers, and processes in each of them.
func full(b testing.TB, processes, containers int) (*Attributor, *container.Directory, []*caller.Caller) {
	source := pods{make(chan *container.Container)}
	d := container.Open(slog.New(slog.DiscardHandler), source)
	ids := make([]string, containers)
	for n := range ids {
		ids[n] = fmt.Sprintf("%064x", n+1)
		source.tell <- &container.Container{ID: ids[n], Pod: &container.Pod{Name: ids[n], Labels: map[string]string{"team": "t"}}}
	}
	for d.Get(ids[containers-1], "") == nil {
		time.Sleep(time.Millisecond)
	}
	a := New(Options{Containers: d, Rules: rules(b, "pod.label:team unit")})
	callers := make([]*caller.Caller, processes)
	for n := range callers {
		c := curl()
		c.PID, c.ContainerID = uint32(1<<30+n), ids[n%containers]
		callers[n] = c
		a.Meet(c)
	}
	return a, d, callers
}

// What a call waits for.
func BenchmarkMeetKnown(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprint(n, " processes"), func(b *testing.B) {
			a, d, callers := full(b, n, min(n, 500))
			defer d.Close()
			for i := 0; b.Loop(); i++ {
				a.Meet(callers[i%n])
			}
		})
	}
}

func BenchmarkMeetNew(b *testing.B) {
	a, d, _ := full(b, 1, 1)
	defer d.Close()
	c := curl()
	for b.Loop() {
		c.ExecID++
		a.Meet(c)
	}
}

// What follows the answer.
func BenchmarkOfKnown(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprint(n, " processes"), func(b *testing.B) {
			a, d, callers := full(b, n, min(n, 500))
			defer d.Close()
			call := v1(nil, "curl/7.61.1")
			for i := 0; b.Loop(); i++ {
				call.Caller = callers[i%n]
				a.Of(call)
			}
		})
	}
}

// What comes with a call of a process in one of 500 containers, besides what package caller remembers.
func TestMemoryOfAProcess(t *testing.T) {
	const processes, limit = 10_000, 768
	a, d, callers := full(t, processes, 500)
	defer d.Close()
	a.known.Purge()
	before := heap()
	for _, c := range callers {
		a.Of(v1(c, "curl/7.61.1"))
	}
	each := (heap() - before) / processes
	runtime.KeepAlive(callers)
	runtime.KeepAlive(a)
	t.Logf("%d bytes for each of %d processes that called", each, processes)
	if each > limit {
		t.Errorf("%d bytes for each process, more than %d", each, limit)
	}
}
