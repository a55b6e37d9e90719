package software

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

const (
	// goBytes is what is read of an executable to see whether it is Go's: what says so lies at the start
	// of its data, if the executable has no section for it.
	goBytes = 2 << 20
	// goRead is what is read at once, as the list of its modules is. That of a large program has 100 KB,
	// and each byte of it takes twenty of memory.
	goRead = 512 << 10
	// maxSections and maxNames bound the sections and the bytes of their names. debug/elf keeps a name
	// for each. A Go program has 50, with 1 KB.
	maxSections = 256
	maxNames    = 16 << 10
)

// goBuild reads which modules a Go program was built from. It tells whether the executable is one,
// which is then all there is to know: no run of it has other libraries.
func (l *look) goBuild() bool {
	fd, err := reopen(l.exe)
	if err != nil {
		l.miss(l.exePath, err)
		return false
	}
	exe := &file{fd: fd, path: l.exePath, size: l.id.exe.size, budget: newBudget(l.tree.budget.ctx, goBytes)}
	defer exe.close()
	info, err := readBuild(exe)
	if err != nil {
		return false
	}
	l.found.Program = Program{
		Ecosystem: Go,
		Name:      word(info.Main.Path),
		Version:   goVersion(info.Main.Version),
		Main:      word(info.Path),
	}
	for _, module := range info.Deps {
		if !slices.Contains(l.wants(Go), module.Path) {
			continue
		}
		// A part of the list would keep all of it.
		lib := Library{Go, word(module.Path), module.Version, Loaded, exe.path}
		if module.Replace != nil {
			lib.Version = module.Replace.Version // "" for a directory
		}
		l.add(lib)
	}
	return true
}

// goVersion is a module's version, "" for that of a working tree.
func goVersion(version string) string {
	if version == "(devel)" {
		return ""
	}
	return word(version)
}

var errNotPlain = errors.New("not an executable as linkers make them")

// readBuild reads what a Go executable says of its build, if it takes no more memory than such a one.
func readBuild(exe io.ReaderAt) (*buildinfo.BuildInfo, error) {
	h := headers{from: exe}
	if err := h.read(); err != nil {
		return nil, err
	}
	return buildinfo.Read(&h)
}

// headers are those of an ELF file, which is read with them as they were checked: a file system
// can answer otherwise when asked again.
type headers struct {
	from     io.ReaderAt
	file     [64]byte // at its start
	sections []byte
	at       int64 // of the sections
}

// ReadAt is that of [io.ReaderAt].
func (h *headers) ReadAt(p []byte, offset int64) (int, error) {
	whole := len(p)
	p = p[:min(whole, goRead)]
	n, err := h.from.ReadAt(p, offset)
	if err == nil && n < whole {
		err = io.EOF
	}
	overlay(p[:n], offset, h.sections, h.at)
	overlay(p[:n], offset, h.file[:], 0)
	return n, err
}

// overlay puts what is at another place of a file over what was read at offset.
func overlay(p []byte, offset int64, over []byte, at int64) {
	if from := at - offset; from >= 0 && from < int64(len(p)) {
		copy(p[from:], over)
	} else if from < 0 && -from < int64(len(over)) {
		copy(p, over[-from:])
	}
}

func (h *headers) read() error {
	if _, err := h.from.ReadAt(h.file[:], 0); err != nil {
		return err
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if h.file[elf.EI_DATA] == byte(elf.ELFDATA2MSB) {
		order = binary.BigEndian
	}
	var count, size, names int
	var entry func([]byte) (flags, length uint64)
	switch {
	case bytes.HasPrefix(h.file[:], []byte(elf.ELFMAG+"\x02")):
		h.at = int64(order.Uint64(h.file[40:]))
		size, count, names = int(order.Uint16(h.file[58:])), int(order.Uint16(h.file[60:])), int(order.Uint16(h.file[62:]))
		entry = func(b []byte) (flags, length uint64) { return order.Uint64(b[8:]), order.Uint64(b[32:]) }
	case bytes.HasPrefix(h.file[:], []byte(elf.ELFMAG+"\x01")):
		h.at = int64(order.Uint32(h.file[32:]))
		size, count, names = int(order.Uint16(h.file[46:])), int(order.Uint16(h.file[48:])), int(order.Uint16(h.file[50:]))
		entry = func(b []byte) (flags, length uint64) {
			return uint64(order.Uint32(b[8:])), uint64(order.Uint32(b[20:]))
		}
	default:
		return errNotPlain
	}
	if h.at == 0 && count == 0 {
		return nil
	}
	const smallest, largest = 40, 64 // entries
	if h.at < int64(len(h.file)) || size < smallest || size > largest || count == 0 || count > maxSections || names >= count {
		return errNotPlain
	}
	h.sections = make([]byte, count*size)
	if _, err := h.from.ReadAt(h.sections, h.at); err != nil {
		return err
	}
	flags, length := entry(h.sections[names*size:])
	if flags&uint64(elf.SHF_COMPRESSED) != 0 || length > maxNames {
		return errNotPlain
	}
	return nil
}
