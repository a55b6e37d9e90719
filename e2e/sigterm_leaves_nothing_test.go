package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// The addresses that the bridge adds to lo.
var listenAddresses = []string{"169.254.20.254", "fd69:6d64:7362::254"}

func TestSIGTERMLeavesNothing(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	b := i.startBridge(t, bridgeOptions{})
	if i.hooks(t) == 0 {
		t.Fatal("no hook while the bridge runs: this test cannot fail")
	}
	for _, address := range listenAddresses {
		if !i.hasAddress(t, address) {
			t.Errorf("%s is not there while the bridge runs", address)
		}
	}
	i.bridgeToken(t)

	b.stop(t) // wants exit code 0
	if n := i.hooks(t); n != 0 {
		t.Errorf("%d hooks left", n)
	}
	for _, address := range listenAddresses {
		if i.hasAddress(t, address) {
			t.Errorf("%s left on lo", address)
		}
	}
	if _, err := os.Stat(b.admin); !os.IsNotExist(err) {
		t.Errorf("admin socket left: %v", err)
	}
	if got := finish(t, i.Host().Start, curl(role)); got.err != nil {
		t.Errorf("curl afterwards: %v, %s", got.err, got.stderr)
	}
	if c := i.imds.Counts(); c.V1 != 1 || c.Requests != 1 {
		t.Errorf("afterwards a v1 call did not go straight to IMDS: %v", heads(i.imds.Requests()))
	}
}

func TestSIGTERMLetsCallsUnderWayEnd(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	b := i.startBridge(t, bridgeOptions{})
	i.bridgeToken(t)
	if err := i.imds.SetBehaviour(simulator.Behaviour{Delay: 500 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	call := curl(role)
	var answer strings.Builder
	call.Stdout = &answer
	if err := i.Host().Start(call); err != nil {
		t.Fatal(err)
	}
	await(t, "the call under way", 5*time.Second, func() bool { return i.imds.Counts().Requests == 1 })
	b.terminate()
	if err := call.Wait(); err != nil || !strings.Contains(answer.String(), "AccessKeyId") {
		t.Errorf("the call under way: %v, %q", err, answer.String())
	}
	b.stop(t)
}

// hooks counts the programs that are attached to the scratch cgroup.
func (i *instance) hooks(t *testing.T) (n int) {
	t.Helper()
	cgroup, err := os.Open(i.Cgroup())
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	for _, kind := range []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername, ebpf.AttachCGroupSockOps,
	} {
		attached, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: kind})
		if err != nil {
			t.Fatal(err)
		}
		n += len(attached.Programs)
	}
	return n
}
