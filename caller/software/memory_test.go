package software

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
	"strings"
	"testing"
	"time"
)

// maxHeap is what a look at files made to harm may take, garbage included.
const maxHeap = 32 << 20

// checkHeap fails if the heap ever grows by more than maxHeap while do runs. What calls it runs alone.
func checkHeap(t *testing.T, do func()) {
	t.Helper()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtime.GC()
	before, most := heap(), uint64(0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(time.Millisecond):
		}
		most = max(most, heap())
	}
	grown := int64(most) - int64(before)
	t.Logf("+%d KiB", grown>>10)
	if grown > maxHeap {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

func TestMemoryOfComposer(t *testing.T) {
	const sdk = `{"name": "aws/aws-sdk-php", "version": "3.1.0"}`
	for name, test := range map[string]struct {
		before, each, after string
		found               bool
	}{
		"objects": {`{"packages":[` + sdk + `,`, "{},", `{}]}`, true},
		"fields":  {`[` + sdk + `,{`, `"a":1,`, `"b":2}]`, true},
		"strings": {`[` + sdk + `,[`, `"a",`, `"b"]]`, true},
		"nesting": {`[{"name":`, `[`, ``, false},
		"string":  {`[{"name":"`, `a`, `"}]`, false},
		"spaces":  {`[`, ` `, `]`, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t)
			list := dir + "/vendor/composer/installed.json"
			write(t, list, test.before+strings.Repeat(test.each, (3<<20)/len(test.each))+test.after)
			c := stub(t, dir, "php8.2", dir+"/public/index.php")
			f, err := newIdle(Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			p, err := f.openProcess(c)
			if err != nil {
				t.Fatal(err)
			}
			defer p.close()
			if err := p.hold(); err != nil {
				t.Fatal(err)
			}
			var s *Software
			checkHeap(t, func() { s = f.look(t.Context(), p, false) })
			if test.found {
				check(t, s, Library{Composer, "aws/aws-sdk-php", "3.1.0", Installed, list})
			} else {
				check(t, s)
			}
		})
	}
}

// executable is one of a segment with this data, and of these sections, the last of which has their names.
func executable(sections []elf.Section64, data []byte) []byte {
	const at = 0x1000
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // to memory
	h := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: 2, Machine: 62, Version: 1,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	if len(sections) > 0 {
		h.Shoff, h.Shnum, h.Shstrndx = uint64(at+len(data)), uint16(len(sections)), uint16(len(sections)-1)
	}
	put(h)
	size := uint64(len(data))
	put(elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: at, Vaddr: at, Paddr: at, Filesz: size, Memsz: size, Align: at})
	b.Write(make([]byte, at-b.Len()))
	b.Write(data)
	put(sections)
	return b.Bytes()
}

// buildInfo is what the linker writes for these modules.
func buildInfo(modules string) []byte {
	mark := strings.Repeat("0", 16)
	text := mark + "path\tx\nmod\tx\tv1.0.0\n" + modules + mark
	b := append([]byte("\xff Go buildinf:\x08\x02"), make([]byte, 16)...)
	for _, s := range []string{"go1.20", text} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

func TestMemoryOfGo(t *testing.T) {
	const dep, block, blocks = "dep\ta\tb\n", 64 << 10, 1500
	var packed bytes.Buffer
	_ = binary.Write(&packed, binary.LittleEndian, elf.Chdr64{Type: uint32(elf.COMPRESS_ZSTD), Size: block * blocks, Addralign: 1})
	packed.WriteString("\x28\xb5\x2f\xfd\x00\x58")
	for n := range blocks { // each of one byte, repeated
		header := uint32(block<<3 | 1<<1)
		if n == blocks-1 {
			header |= 1
		}
		packed.Write([]byte{byte(header), byte(header >> 8), byte(header >> 16), 0})
	}
	names := elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: 0x1000}
	compressed := names
	compressed.Flags, compressed.Size = uint64(elf.SHF_COMPRESSED), uint64(packed.Len())
	long := bytes.Repeat([]byte{'a'}, 512<<10)
	long[len(long)-1] = 0
	names.Size = uint64(len(long))
	all := make([]elf.Section64, maxSections)
	for n := range all {
		all[n] = names
	}
	for name, test := range map[string]struct {
		file  []byte
		found bool
	}{
		"some modules":      {executable(nil, buildInfo(strings.Repeat(dep, 10_000))), true},
		"as many as can be": {executable(nil, buildInfo(strings.Repeat(dep, (goRead*3/4)/len(dep)))), true},
		"too many":          {executable(nil, buildInfo(strings.Repeat(dep, (15<<20)/len(dep)))), false},
		"packed names":      {executable([]elf.Section64{{}, compressed}, packed.Bytes()), false},
		"long names":        {executable(all, long), false},
	} {
		t.Run(name, func(t *testing.T) {
			exe := &limited{bytes.NewReader(test.file), newBudget(t.Context(), goBytes)}
			checkHeap(t, func() {
				if _, err := readBuild(exe); err == nil != test.found {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// limited reads within a budget, as a file does.
type limited struct {
	*bytes.Reader
	budget *budget
}

func (l *limited) ReadAt(p []byte, offset int64) (int, error) {
	if err := l.budget.read(len(p)); err != nil {
		return 0, err
	}
	return l.Reader.ReadAt(p, offset)
}
