//go:build root

package owner

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
)

// crowd starts processes that do nothing, and have what any process has open.
func crowd(b *testing.B, n *lab.Namespace, size int) {
	b.Helper()
	for range size {
		cmd := exec.Command("sleep", "600")
		if err := n.Start(cmd); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
}

// A caller that is older than all others, on a host with 5,000 processes of the same user.
func BenchmarkFind(b *testing.B) {
	l := newLab(b)
	box := container(b, l, "one")
	callers := map[string]*client{"host": start(b, l.Host(), dial{To: imds4}), "container": start(b, box, dial{To: imds4})}
	young := func() *client { return start(b, l.Host(), dial{To: imds4}) }
	crowd(b, l.Host(), 4900)
	crowd(b, box, 100)
	time.Sleep(youth) // the callers, not their parent, which has all of the above open
	latest := young()
	measure := func(name string, c *client, prepare func(*Finder)) {
		b.Run(name, func(b *testing.B) {
			f := newFinder(b, l.Host(), func(o *Options) { o.Timeout = 10 * time.Second })
			find(b, f, c, imds4)
			for b.Loop() {
				if prepare != nil {
					b.StopTimer()
					prepare(f)
					b.StartTimer()
				}
				if _, err := f.Find(context.Background(), c.local, imds4); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	forget := func(f *Finder) { f.hints.Purge() }
	forgetAll := func(f *Finder) { f.hints.Purge(); f.others.latest = nil }
	measure("host/again", callers["host"], nil)
	measure("host/first, old process", callers["host"], forget)
	measure("host/first, young process", latest, forget)
	measure("container/again", callers["container"], nil)
	measure("container/first", callers["container"], forgetAll)
}
