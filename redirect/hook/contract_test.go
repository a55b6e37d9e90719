package hook

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

func hookSpec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := loadHook()
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// objects are the specs in the objects of all architectures.
func objects(t *testing.T) map[string]*ebpf.CollectionSpec {
	t.Helper()
	specs := make(map[string]*ebpf.CollectionSpec)
	for _, file := range []string{"hook_x86_bpfel.o", "hook_arm64_bpfel.o"} {
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

func TestStructsAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	for name, mirror := range map[string]any{
		"config":     hookConfig{},
		"connection": hookConnection{},
		"endpoints":  hookEndpoints{},
	} {
		for file, spec := range objects(t) {
			t.Run(name+" in "+file, func(t *testing.T) {
				var c *btf.Struct
				if err := spec.Types.TypeByName(name, &c); err != nil {
					t.Fatal(err)
				}
				compareStruct(t, c, reflect.TypeOf(mirror))
			})
		}
	}
}

// sharedLayouts are the structs that bridges of one ContractVersion share. A change here asks for the
// next version, there and in bpf/contract.h.
var sharedLayouts = map[string]string{
	"connection": "socket_cookie:8 netns_cookie:8 cgroup_id:8 started:8 exec_id:8 connected:8 tgid:4 pid:4 ppid:4 uid:4 gid:4 " +
		"netns:4 original_ip:16 original_port:2 original_family:1 ambiguous:1 comm:16 outcome:4",
	"endpoints": "client_ip:16 listener_ip:16 client_port:2 listener_port:2 family:1 own_netns:1 padding:2",
}

func TestSharedLayoutsAreThoseOfTheVersion(t *testing.T) {
	t.Parallel()
	header, err := os.ReadFile("../../bpf/contract.h")
	if err != nil {
		t.Fatal(err)
	}
	if define := fmt.Sprintf("#define CONTRACT_VERSION %d\n", ContractVersion); !strings.Contains(string(header), define) {
		t.Errorf("bpf/contract.h does not say %s", define)
	}
	for name, want := range sharedLayouts {
		var c *btf.Struct
		if err := hookSpec(t).Types.TypeByName(name, &c); err != nil {
			t.Fatal(err)
		}
		var members []string
		for _, m := range c.Members {
			size, err := btf.Sizeof(m.Type)
			if err != nil {
				t.Fatal(err)
			}
			members = append(members, fmt.Sprintf("%s:%d", m.Name, size))
		}
		if got := strings.Join(members, " "); got != want {
			t.Errorf("struct %s of version %d is\n%s, was\n%s", name, ContractVersion, got, want)
		}
	}
}

func compareStruct(t *testing.T, c *btf.Struct, mirror reflect.Type) {
	if uintptr(c.Size) != mirror.Size() {
		t.Errorf("%d bytes in C, %d in Go", c.Size, mirror.Size())
	}
	var fields []reflect.StructField
	for _, f := range reflect.VisibleFields(mirror) {
		if f.Name != "_" { // structs.HostLayout, of no size
			fields = append(fields, f)
		}
	}
	if len(fields) != len(c.Members) {
		t.Fatalf("%d members in C, %d in Go", len(c.Members), len(fields))
	}
	end := uint32(0)
	for i, m := range c.Members {
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		inC := fmt.Sprintf("%s at %d, %d bytes", goName(m.Name), m.Offset.Bytes(), size)
		inGo := fmt.Sprintf("%s at %d, %d bytes", fields[i].Name, fields[i].Offset, fields[i].Type.Size())
		if inC != inGo {
			t.Errorf("C has %s; Go has %s", inC, inGo)
		}
		if m.Offset.Bytes() != end {
			t.Errorf("a hole before %s: the struct is a map key or value", m.Name)
		}
		end = m.Offset.Bytes() + uint32(size)
	}
	if end != c.Size {
		t.Errorf("a hole after %s: the struct is a map key or value", c.Members[len(c.Members)-1].Name)
	}
}

// goName is snake_case as CamelCase.
func goName(c string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(c, "_") {
		b.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return b.String()
}

func TestOutcomesAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	for file, spec := range objects(t) {
		var enum *btf.Enum
		if err := spec.Types.TypeByName("outcome", &enum); err != nil {
			t.Fatal(err)
		}
		if len(enum.Values) != len(outcomes)+1 {
			t.Fatalf("%s: %d outcomes in C, %d in Go", file, len(enum.Values)-1, len(outcomes))
		}
		for i, v := range enum.Values {
			if v.Value != uint64(i) {
				t.Errorf("%s: %s is %d, the %dth", file, v.Name, v.Value, i)
			}
			name := strings.ToLower(strings.TrimPrefix(v.Name, "OUTCOME_"))
			if i == len(outcomes) {
				if name != "count" {
					t.Errorf("%s: %s comes last", file, v.Name)
				}
			} else if Outcome(name) != outcomes[i] {
				t.Errorf("%s: %s in C is %s in Go", file, v.Name, outcomes[i])
			}
		}
	}
}

func TestMapsAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	connection, endpoints := uint32(reflect.TypeFor[hookConnection]().Size()), uint32(reflect.TypeFor[hookEndpoints]().Size())
	want := map[string]ebpf.MapSpec{
		hookMapSockets:     {Type: ebpf.LRUHash, KeySize: 8, ValueSize: connection, MaxEntries: 1},
		hookMapConnections: {Type: ebpf.LRUHash, KeySize: endpoints, ValueSize: connection, MaxEntries: 1},
		hookMapCounters:    {Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: uint32(len(outcomes))},
		hookMapHopLimits:   {Type: ebpf.Hash, KeySize: 8, ValueSize: 4, MaxEntries: 4096},
	}
	for file, spec := range objects(t) {
		for name, m := range spec.Maps {
			if m.Pinning != ebpf.PinNone {
				t.Errorf("%s: map %s is pinned, and would outlive the bridge", file, name)
			}
			if strings.HasPrefix(name, ".") {
				continue // sections of variables
			}
			w, ok := want[name]
			if !ok {
				t.Errorf("%s: map %s is not in the contract", file, name)
			}
			if m.Type != w.Type || m.KeySize != w.KeySize || m.ValueSize != w.ValueSize || m.MaxEntries != w.MaxEntries {
				t.Errorf("%s: map %s is %v, want %v", file, name, m, &w)
			}
		}
		for name := range want {
			if spec.Maps[name] == nil {
				t.Errorf("%s: no map %s", file, name)
			}
		}
	}
}

func TestVariablesAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		hookVarSettings:  fmt.Sprintf("%d constant true", reflect.TypeFor[hookConfig]().Size()),
		hookVarHeartbeat: "8 constant false",
	}
	for file, spec := range objects(t) {
		got := make(map[string]string)
		for name, v := range spec.Variables {
			got[name] = fmt.Sprintf("%d constant %t", v.Size(), v.Constant())
		}
		delete(got, "_license")
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", file, got, want)
		}
	}
}

func TestProgramsAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	want := map[string]ebpf.ProgramSpec{
		hookProgConnect4:     {Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, SectionName: "cgroup/connect4"},
		hookProgConnect6:     {Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet6Connect, SectionName: "cgroup/connect6"},
		hookProgGetpeername4: {Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCgroupInet4GetPeername, SectionName: "cgroup/getpeername4"},
		hookProgGetpeername6: {Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCgroupInet6GetPeername, SectionName: "cgroup/getpeername6"},
		hookProgSockOps:      {Type: ebpf.SockOps, AttachType: ebpf.AttachCGroupSockOps, SectionName: "sockops"},
		hookProgHopLimit:     {Type: ebpf.SocketFilter, SectionName: "socket"},
	}
	for file, spec := range objects(t) {
		if len(spec.Programs) != len(want) {
			t.Errorf("%s: %d programs, want %d", file, len(spec.Programs), len(want))
		}
		for name, w := range want {
			p := spec.Programs[name]
			if p == nil {
				t.Errorf("%s: no program %s", file, name)
				continue
			}
			if p.Type != w.Type || p.AttachType != w.AttachType || p.SectionName != w.SectionName {
				t.Errorf("%s: %s is a %s for %s in section %s", file, name, p.Type, p.AttachType, p.SectionName)
			}
			// Without it the kernel allows neither the task nor probe reads.
			if p.License != "Dual BSD/GPL" {
				t.Errorf("%s: %s has the licence %q", file, name, p.License)
			}
		}
	}
}

// The program reads no registers of the machine, so its instructions too are the same everywhere.
func TestObjectsOfBothArchitecturesAgree(t *testing.T) {
	t.Parallel()
	want := describe(hookSpec(t))
	for file, spec := range objects(t) {
		got := describe(spec)
		for what := range want {
			if got[what] != want[what] {
				t.Errorf("%s: %s differs from the embedded object's", file, what)
			}
			delete(got, what)
		}
		for what := range got {
			t.Errorf("%s: %s is not in the embedded object", file, what)
		}
	}
}

func describe(spec *ebpf.CollectionSpec) map[string]string {
	d := make(map[string]string)
	for name, m := range spec.Maps {
		d["map "+name] = fmt.Sprint(m, m.Flags, m.Pinning, m.Key, m.Value)
	}
	for name, p := range spec.Programs {
		d["program "+name] = fmt.Sprint(p.Type, p.AttachType, p.SectionName, p.License, p.ByteOrder, p.Instructions)
	}
	for name, v := range spec.Variables {
		d["variable "+name] = fmt.Sprint(v.Size(), v.Constant())
	}
	for typ, err := range spec.Types.All() {
		if err == nil && typ.TypeName() != "" {
			d["type "+typ.TypeName()] = fmt.Sprint(typ)
		}
	}
	return d
}

func TestReadmeNamesAllOfTheContract(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../bpf/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	spec := hookSpec(t)
	for name := range spec.Programs {
		names = append(names, name)
	}
	for name := range spec.Maps {
		if !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	for name := range spec.Variables {
		names = append(names, name)
	}
	for _, o := range outcomes {
		names = append(names, string(o))
	}
	for _, name := range names {
		if !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("bpf/README.md says nothing of %s", name)
		}
	}
	for _, o := range outcomes {
		unchanged := o.Bypass() || o == "exempt" || o == "watched"
		if row := fmt.Sprintf("\n| `%s` | IMDS |", o); strings.Contains(string(readme), row) != unchanged {
			t.Errorf("bpf/README.md is wrong about where a call goes that is %s", o)
		}
	}
}
