//go:build root

package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/simulator"
)

func expectAttached(t *testing.T, p *place, want int) {
	t.Helper()
	eventually(t, func() error {
		if n := attached(t, p); n != want {
			return fmt.Errorf("%d programs are attached, want %d", n, want)
		}
		return nil
	})
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{Drop: simulator.DropHang})
	w := watch(t, p)
	expectAttached(t, p, 2)
	client := start(t, p.Host(), []call{{To: imds4, Send: []string{getID}, Keep: true}})
	client.next(t)
	for range 2 {
		if err := w.Detach(); err != nil {
			t.Error(err)
		}
	}
	expectAttached(t, p, 0)
	start(t, p.Host(), []call{{To: imds4, Send: []string{getID}, Keep: true}}).next(t) // is not seen
	for range 2 {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	w.expect(t, "GET /latest/meta-data/instance-id 0")
	if len(w.told) != 0 {
		t.Errorf("told %+v", <-w.told)
	}
	if got, err := w.Counters(); err != nil || got["requests"] != 1 || got["sent"] == 0 {
		t.Errorf("after Close %v, %v", got, err)
	}
}

// As one has that was forked and did not exec yet.
func TestDetachDoesNotWaitForAProcessThatHoldsACopyOfTheLink(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p)
	for _, l := range w.links {
		fd, err := unix.Dup(l.(*link.RawLink).FD())
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	if err := w.Detach(); err != nil {
		t.Fatal(err)
	}
	expectAttached(t, p, 0)
}

func TestKilledWatchLeavesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := startRole(t, p.Host().StartOutside, "watcher", watcherTask{Cgroup: p.Cgroup()})
	var first watched
	if w.read(t, &first); first.Attach != "" {
		t.Fatal(first.Attach)
	}
	expectAttached(t, p, 2)
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := w.end(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("the watch ended with %v", err)
	}
	expectAttached(t, p, 0)
}

func TestTwoWatchesSeeTheSame(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	one, other := watch(t, p), watch(t, p)
	start(t, p.Host(), []call{{To: imds4, Send: []string{getID}, Reads: 1}}).next(t)
	one.expect(t, "GET /latest/meta-data/instance-id 200")
	other.expect(t, "GET /latest/meta-data/instance-id 200")
}

func TestAttachThatFailsNamesTheCauseAndLeavesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	try := func(cgroup string) error {
		return p.Host().Do(func() error {
			_, err := Attach(Options{Cgroup: cgroup, Seen: func(Exchange) {}})
			return err
		})
	}
	if err := try(p.Cgroup() + "/none"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), p.Cgroup()+"/none") {
		t.Errorf("no directory: %v", err)
	}
	if err := try(t.TempDir()); !errors.Is(err, redirect.ErrNotCgroup2) {
		t.Errorf("no cgroup: %v", err)
	}

	dir, err := os.Open(p.Cgroup())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var other watchPrograms
	if err := loadWatchObjects(&other, nil); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	// Without a flag that allows others.
	holder := link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: other.Egress, Attach: ebpf.AttachCGroupInetEgress}
	if err := link.RawAttachProgram(holder); err != nil {
		t.Fatal(err)
	}
	if err := try(p.Cgroup()); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), p.Cgroup()) || !strings.Contains(err.Error(), "holds the hook alone") {
		t.Errorf("beside a program that holds the hook alone: %v", err)
	}
	if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: holder.Target, Program: holder.Program, Attach: holder.Attach}); err != nil {
		t.Fatal(err)
	}
	expectAttached(t, p, 0)
}

func TestCountersAreExported(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p)
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	if err := w.Observe(provider); err != nil {
		t.Fatal(err)
	}
	start(t, p.Host(), []call{{To: imds4, Send: []string{getID}, Reads: 1}}).next(t)
	w.expect(t, "GET /latest/meta-data/instance-id 200")
	for _, when := range []string{"while it watches", "after Close"} {
		var all metricdata.ResourceMetrics
		if err := reader.Collect(context.Background(), &all); err != nil {
			t.Fatal(err)
		}
		got := make(map[string]int64)
		for _, m := range all.ScopeMetrics[0].Metrics {
			for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
				got[strings.Join(append([]string{m.Name}, values(point)...), " ")] = point.Value
			}
		}
		if got["imds.watch.requests"] != 1 || got["imds.watch.packets sent"] < 4 || got["imds.watch.packets received"] < 2 ||
			got["imds.watch.bytes"] != int64(len(getID)) || got["imds.watch.unnamed"] != 1 || len(got) != 13 {
			t.Errorf("%s: %v", when, got)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := provider.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

func values(point metricdata.DataPoint[int64]) (all []string) {
	for _, attribute := range point.Attributes.ToSlice() {
		all = append(all, attribute.Value.AsString())
	}
	return all
}
