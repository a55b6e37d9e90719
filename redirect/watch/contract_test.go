package watch

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// objects are the specs in the objects of all architectures.
func objects(t *testing.T) map[string]*ebpf.CollectionSpec {
	t.Helper()
	specs := make(map[string]*ebpf.CollectionSpec)
	for _, file := range []string{"watch_x86_bpfel.o", "watch_arm64_bpfel.o"} {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if specs[file], err = ebpf.LoadCollectionSpecFromReader(f); err != nil {
			t.Fatal(err)
		}
	}
	return specs
}

func TestPacketIsThatOfTheContract(t *testing.T) {
	t.Parallel()
	mirror := reflect.TypeFor[watchPacket]()
	for file, spec := range objects(t) {
		var c *btf.Struct
		if err := spec.Types.TypeByName("packet", &c); err != nil {
			t.Fatal(err)
		}
		if uintptr(c.Size) != mirror.Size() || c.Size%8 != 0 {
			t.Errorf("%s: %d bytes in C, %d in Go", file, c.Size, mirror.Size())
		}
		for _, m := range c.Members {
			name := strings.ReplaceAll(m.Name, "_", "")
			f, ok := mirror.FieldByNameFunc(func(in string) bool { return strings.EqualFold(in, name) })
			if !ok || f.Offset != uintptr(m.Offset.Bytes()) {
				t.Errorf("%s: %s is at %d in C, at %d in Go", file, m.Name, m.Offset.Bytes(), f.Offset)
			}
		}
	}
}

func TestSightsAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	for file, spec := range objects(t) {
		var enum *btf.Enum
		if err := spec.Types.TypeByName("sight", &enum); err != nil {
			t.Fatal(err)
		}
		if len(enum.Values) != len(sights)+1 {
			t.Fatalf("%s: %d sights in C, %d in Go", file, len(enum.Values)-1, len(sights))
		}
		for i, v := range enum.Values[:len(sights)] {
			name := strings.ToLower(strings.TrimPrefix(v.Name, "SIGHT_"))
			if name == "lost" {
				name = "ring_full"
			}
			if v.Value != uint64(i) || string(sights[i]) != name {
				t.Errorf("%s: %s in C is %s in Go", file, v.Name, sights[i])
			}
		}
	}
}

func TestEveryCountIsExportedOnce(t *testing.T) {
	t.Parallel()
	seen := map[Count]int{"exempt": 1} // the bridge's own, which it counts itself
	for _, s := range exported {
		for _, v := range s.values {
			seen[v]++
		}
		if (s.attribute == "") != (len(s.values) == 1) {
			t.Errorf("%s has %d values by attribute %q", s.name, len(s.values), s.attribute)
		}
	}
	for _, name := range append(sights[:], countNames[:]...) {
		if seen[name] != 1 {
			t.Errorf("%s is exported %d times", name, seen[name])
		}
	}
}

func TestProgramsAndMapsAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	programs := map[string]ebpf.ProgramSpec{
		watchProgEgress:  {Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, SectionName: "cgroup_skb/egress"},
		watchProgIngress: {Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetIngress, SectionName: "cgroup_skb/ingress"},
	}
	connection := uint32(reflect.TypeFor[watchConnection]().Size())
	maps := map[string]ebpf.MapSpec{
		watchMapSockets:  {Type: ebpf.LRUHash, KeySize: 8, ValueSize: connection, MaxEntries: 1},
		watchMapPackets:  {Type: ebpf.RingBuf, MaxEntries: 4096},
		watchMapCallers:  {Type: ebpf.SkStorage, KeySize: 4, ValueSize: 1},
		watchMapCounters: {Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: uint32(len(sights))},
		".rodata":        {Type: ebpf.Array, KeySize: 4, ValueSize: 12, MaxEntries: 1},
	}
	for file, spec := range objects(t) {
		if len(spec.Programs) != len(programs) || len(spec.Maps) != len(maps) {
			t.Errorf("%s: %d programs, %d maps", file, len(spec.Programs), len(spec.Maps))
		}
		for name, w := range programs {
			p := spec.Programs[name]
			if p == nil || p.Type != w.Type || p.AttachType != w.AttachType || p.SectionName != w.SectionName || p.License != "Dual BSD/GPL" {
				t.Errorf("%s: program %s is %v", file, name, p)
			}
		}
		for name, w := range maps {
			m := spec.Maps[name]
			if m == nil || m.Type != w.Type || m.KeySize != w.KeySize || m.ValueSize != w.ValueSize || m.MaxEntries != w.MaxEntries || m.Pinning != ebpf.PinNone {
				t.Errorf("%s: map %s is %v", file, name, m)
			}
		}
	}
}

// The program reads no registers of the machine, so its instructions too are the same everywhere.
func TestObjectsOfBothArchitecturesAgree(t *testing.T) {
	t.Parallel()
	var first map[string]string
	for file, spec := range objects(t) {
		got := make(map[string]string)
		for name, p := range spec.Programs {
			got["program "+name] = fmt.Sprint(p.Instructions)
		}
		for name, m := range spec.Maps {
			got["map "+name] = fmt.Sprint(m, m.Key, m.Value)
		}
		if first == nil {
			first = got
		}
		if !reflect.DeepEqual(got, first) {
			t.Errorf("%s differs from the other", file)
		}
	}
}
