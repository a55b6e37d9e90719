//go:build root

package hook

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/lab"
)

// foreign is somebody else's program on the connect4 hook. It counts its calls.
type foreign struct {
	program *ebpf.Program
	calls   *ebpf.Map
	id      ebpf.ProgramID
}

// How a foreign program is attached. The flags are those of BPF_PROG_ATTACH.
const (
	exclusive     = 0
	allowOverride = 1 << 0
	allowMulti    = 1 << 1
	byLink        = 1 << 31 // none of the kernel's
)

var ways = map[string]uint32{"as a link": byLink, "allowing multi": allowMulti, "allowing override": allowOverride, "alone": exclusive}

// newForeign loads a program that counts its calls, and does then what the instructions say.
func newForeign(t *testing.T, then ...asm.Instruction) *foreign {
	t.Helper()
	calls, err := ebpf.NewMap(&ebpf.MapSpec{Name: "foreign", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { calls.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: append(asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, calls.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "then"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("then"),
		}, append(then, asm.Return())...),
	})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { program.Close() })
	info, err := program.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return &foreign{program, calls, id}
}

// attach attaches it to a cgroup until the end of the test.
func (f *foreign) attach(t *testing.T, cgroup string, how uint32) error {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	if how == byLink {
		l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(dir.Fd()), Program: f.program, Attach: ebpf.AttachCGroupInet4Connect})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}
	o := link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: f.program, Attach: ebpf.AttachCGroupInet4Connect, Flags: how}
	if err := link.RawAttachProgram(o); err != nil {
		return err
	}
	t.Cleanup(func() {
		_ = link.RawDetachProgram(link.RawDetachProgramOptions{Target: o.Target, Program: o.Program, Attach: o.Attach})
	})
	return nil
}

func (f *foreign) mustAttach(t *testing.T, cgroup string, how uint32) {
	t.Helper()
	if err := f.attach(t, cgroup, how); err != nil {
		t.Fatal(err)
	}
}

// called says how often it ran since it was asked last.
func (f *foreign) called(t *testing.T) (n uint64) {
	t.Helper()
	if err := f.calls.Lookup(uint32(0), &n); err != nil {
		t.Fatal(err)
	}
	if err := f.calls.Put(uint32(0), uint64(0)); err != nil {
		t.Fatal(err)
	}
	return n
}

// places are the cgroups of foreign programs, as seen from the lab's.
var places = map[string]func(l *lab.Lab) string{
	"on the same cgroup": func(l *lab.Lab) string { return l.Cgroup() },
	"on the one above":   func(l *lab.Lab) string { return filepath.Dir(l.Cgroup()) },
	"on one below":       func(l *lab.Lab) string { return filepath.Join(l.Cgroup(), below) },
}

const below = "below" // the cgroup of the container that calls

func TestProgramsOfOthersAndOursKeepWorking(t *testing.T) {
	t.Parallel()
	for where, place := range places {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			caller, err := l.AddContainer(below)
			if err != nil {
				t.Fatal(err)
			}
			for how, flags := range ways {
				shares := flags == byLink || flags == allowMulti
				t.Run("before ours, "+how, func(t *testing.T) {
					f := newForeign(t)
					f.mustAttach(t, place(l), flags)
					if shares || where == "on one below" {
						expectBoth(t, newBridgeIn(t, l), caller, f, 1)
					} else {
						expectNoPlace(t, l, f, place(l))
					}
				})
				t.Run("after ours, "+how, func(t *testing.T) {
					b, f := newBridgeIn(t, l), newForeign(t)
					err := f.attach(t, place(l), flags)
					ran := uint64(1)
					if !shares && where == "on the same cgroup" {
						if !errors.Is(err, unix.EPERM) {
							t.Errorf("it came beside ours: %v", err)
						}
						ran = 0
					} else if err != nil {
						t.Fatal(err)
					}
					if !shares && where == "on the one above" {
						ran = 0 // by its own word, those below take its place
					}
					expectBoth(t, b, caller, f, ran)
				})
			}
		})
	}
}

// expectBoth makes a call that must come to the bridge, and lets the other program run.
func expectBoth(t *testing.T, b *bridge, caller *lab.Namespace, f *foreign, ran uint64) {
	t.Helper()
	expectCall(t, b, caller, call{To: imds4})
	if n := f.called(t); n != ran {
		t.Errorf("the other program ran %d times, want %d", n, ran)
	}
}

// expectNoPlace attaches our hook, which must fail, name the program in the way and leave nothing.
func expectNoPlace(t *testing.T, l *lab.Lab, f *foreign, cgroup string) {
	t.Helper()
	err := l.Host().Do(func() error {
		h, err := Attach(options(l))
		if err == nil {
			err = errors.Join(errors.New("attached"), h.Close())
		}
		return err
	})
	for _, part := range []string{fmt.Sprintf("program %d %q", f.id, "foreign"), " on " + cgroup + " ", "BPF_F_ALLOW_MULTI"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("it does not say %q: %v", part, err)
		}
	}
	n, err := attached(l)
	if err != nil {
		t.Fatal(err)
	}
	for where, count := range n {
		if where != ebpf.AttachCGroupInet4Connect && count != 0 {
			t.Errorf("%d programs at %s are left", count, where)
		}
	}
	if expectIn := cgroup == l.Cgroup(); expectIn != (n[ebpf.AttachCGroupInet4Connect] == 1) {
		t.Errorf("attached are %v", n)
	}
}

// Whoever comes first decides where a call goes; the others see where.
func TestProgramThatRedirectsIMDSElsewhereFirstGetsTheCalls(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	elsewhere := netip.AddrPortFrom(l.Host().Addr(), 8080)
	toElsewhere := []asm.Instruction{
		asm.LoadMem(asm.R1, asm.R6, offsetIP4, asm.Word),
		asm.JNE.Imm32(asm.R1, int32(words(mustAddrPort(imds4).Addr())[3]), "end"),
		asm.Mov.Imm32(asm.R1, int32(words(elsewhere.Addr())[3])),
		asm.StoreMem(asm.R6, offsetIP4, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R1, int32(networkOrder(elsewhere.Port()))),
		asm.StoreMem(asm.R6, offsetPort, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("end"),
	}
	other, err := l.Host().Listen("tcp", elsewhere.String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	t.Run("before ours", func(t *testing.T) {
		newForeign(t, toElsewhere...).mustAttach(t, l.Cgroup(), byLink)
		b := newBridgeIn(t, l)
		client := start(t, l.Host(), []call{{To: imds4, Keep: true}})
		c, err := other.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		client.next(t)
		b.expectCounters(t, nil)
	})
	t.Run("after ours", func(t *testing.T) {
		b := newBridgeIn(t, l)
		newForeign(t, toElsewhere...).mustAttach(t, l.Cgroup(), byLink)
		expectCall(t, b, l.Host(), call{To: imds4})
	})
}

// From include/uapi/linux/bpf.h: where struct bpf_sock_addr has user_ip4 and user_port.
const offsetIP4, offsetPort = 4, 24

func TestProgramThatForbidsTheCallHasTheLastWord(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	forbid := asm.Mov.Imm(asm.R0, 0)
	t.Run("before ours", func(t *testing.T) {
		newForeign(t, forbid).mustAttach(t, l.Cgroup(), byLink)
		b := newBridgeIn(t, l)
		expectRefused(t, l.Host(), call{To: imds4})
		b.expectCounters(t, map[Outcome]uint64{"redirected": 1}) // ours runs all the same
	})
	t.Run("after ours", func(t *testing.T) {
		newBridgeIn(t, l)
		newForeign(t, forbid).mustAttach(t, l.Cgroup(), byLink)
		expectRefused(t, l.Host(), call{To: imds4})
	})
}
