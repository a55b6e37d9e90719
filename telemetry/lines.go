package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync/atomic"
)

const (
	maxLines = 2048     // that wait for the writer; more are dropped
	maxWrite = 32 << 10 // bytes put into one write, when lines have piled up
)

// lineWriter hands whole log lines to a goroutine of its own, so that a reader of the log that has
// stopped reading never stops us. Every Write is one line.
type lineWriter struct {
	out    io.Writer
	drops  *drops
	queue  chan []byte
	closed atomic.Bool
	stop   chan struct{}
	done   chan struct{}
}

func newLineWriter(out io.Writer, d *drops) *lineWriter {
	w := &lineWriter{
		out:   out,
		drops: d,
		queue: make(chan []byte, maxLines),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	go w.run()
	return w
}

// Write queues a copy of line, or drops it. It never blocks and never fails.
func (w *lineWriter) Write(line []byte) (int, error) {
	if !w.closed.Load() {
		select {
		case w.queue <- bytes.Clone(line):
			return len(line), nil
		default:
		}
	}
	w.drops.add(Logs, QueueFull, 1)
	return len(line), nil
}

// Close writes what is queued, within ctx. A write that hangs keeps its goroutine beyond that.
func (w *lineWriter) Close(ctx context.Context) error {
	if !w.closed.Swap(true) {
		close(w.stop)
	}
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("write the last log lines: %w", ctx.Err())
	}
}

func (w *lineWriter) run() {
	defer close(w.done)
	var batch []byte
	for {
		select {
		case line := <-w.queue:
			batch = w.write(batch[:0], line)
		case <-w.stop:
			for len(w.queue) > 0 {
				batch = w.write(batch[:0], <-w.queue)
			}
			return
		}
	}
}

// write puts line and those already waiting behind it into one write.
func (w *lineWriter) write(batch, line []byte) []byte {
	batch = append(batch, line...)
	lines := 1
	for len(batch) < maxWrite && len(w.queue) > 0 {
		batch = append(batch, <-w.queue...)
		lines++
	}
	if _, err := w.out.Write(batch); err != nil {
		w.drops.add(Logs, ExportFailed, lines)
	}
	return batch
}
