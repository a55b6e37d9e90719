// Package containertest watches sources of containers in tests.
package containertest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

// patience is for a watch that is to end by itself.
const patience = 20 * time.Second

// Watch watches a source till the end of the test, or until the function is called that returns how it
// ended.
func Watch(t *testing.T, s container.Source, told container.Listener) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Watch(ctx, told) }()
	end = sync.OnceValue(func() error {
		defer cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			t.Error("the watch goes on")
			cancel()
			return <-ended
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = end() // how it ended is the test's to ask
	})
	return end
}
