package rpmdb

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
)

// Tags and types of a header's entries (RPM's rpmtag.h).
const (
	tagName       = 1000
	tagVersion    = 1001
	tagRelease    = 1002
	tagEpoch      = 1003
	tagDirIndexes = 1116
	tagBaseNames  = 1117
	tagDirNames   = 1118

	typeInt32       = 4
	typeString      = 6
	typeStringArray = 8
)

const (
	introSize = 8  // number of entries, size of the data
	entrySize = 16 // tag, type, offset into the data, count
)

// filePath is a path in the two parts in which headers keep it.
type filePath struct {
	dir, base string
	text      []byte // base as it is in a header
}

func split(paths []string) []filePath {
	var parts []filePath
	for _, path := range paths {
		slash := strings.LastIndexByte(path, '/')
		base := path[slash+1:]
		parts = append(parts, filePath{path[:slash+1], base, append([]byte(base), 0)})
	}
	return parts
}

// ownerIn returns the package of a header, if a wanted file is one of its own. It goes through the
// directories once, and then once through the files: many can have the wanted one's name.
func (w *work) ownerIn(header []byte, wanted []filePath) (Package, bool, error) {
	mayHave := func(f filePath) bool { return bytes.Contains(header, f.text) }
	if !slices.ContainsFunc(wanted, mayHave) {
		return Package{}, false, nil
	}
	h, ok := parse(header)
	if !ok {
		return Package{}, false, nil
	}
	dirs := make([]int, len(wanted)) // by the number that the header has for them, from 1
	n := 0
	for dir := range h.texts(tagDirNames) {
		if err := w.name(); err != nil {
			return Package{}, false, err
		}
		n++
		for i, file := range wanted {
			if dirs[i] == 0 && string(dir) == file.dir {
				dirs[i] = n
			}
		}
	}
	if !slices.ContainsFunc(dirs, func(dir int) bool { return dir > 0 }) {
		return Package{}, false, nil
	}
	indexes := h.numbers(tagDirIndexes)
	for base := range h.texts(tagBaseNames) {
		if err := w.name(); err != nil {
			return Package{}, false, err
		}
		if len(indexes) < 4 {
			break
		}
		dir := int(binary.BigEndian.Uint32(indexes)) + 1
		for i, file := range wanted {
			if dirs[i] == dir && string(base) == file.base {
				return h.pkg(), true, nil
			}
		}
		indexes = indexes[4:]
	}
	return Package{}, false, nil
}

// fields are a header's entries, with the data that each begins at.
type fields struct {
	entries []byte
	data    []byte
}

func parse(header []byte) (fields, bool) {
	if len(header) < introSize {
		return fields{}, false
	}
	count, size := uint64(binary.BigEndian.Uint32(header)), uint64(binary.BigEndian.Uint32(header[4:]))
	end := introSize + count*entrySize
	if end+size > uint64(len(header)) {
		return fields{}, false
	}
	return fields{header[introSize:end], header[end : end+size]}, true
}

// find returns the data from where a tag's begins, and how many values it has.
func (f fields) find(tag uint32, types ...uint32) (data []byte, count int) {
	for entry := range slices.Chunk(f.entries, entrySize) {
		offset := binary.BigEndian.Uint32(entry[8:])
		if binary.BigEndian.Uint32(entry) == tag && slices.Contains(types, binary.BigEndian.Uint32(entry[4:])) &&
			uint64(offset) <= uint64(len(f.data)) {
			return f.data[offset:], int(binary.BigEndian.Uint32(entry[12:]))
		}
	}
	return nil, 0
}

// texts are a tag's strings.
func (f fields) texts(tag uint32) func(yield func([]byte) bool) {
	data, count := f.find(tag, typeString, typeStringArray)
	return func(yield func([]byte) bool) {
		for range count {
			text, rest, found := bytes.Cut(data, []byte{0})
			if !found || !yield(text) {
				return
			}
			data = rest
		}
	}
}

// numbers are a tag's numbers, of four bytes each.
func (f fields) numbers(tag uint32) []byte {
	data, count := f.find(tag, typeInt32)
	return data[:4*min(count, len(data)/4)]
}

// maxText bounds a package's name and the parts of its version.
const maxText = 1 << 10

// text is a tag's first string, "" if it has none, or a longer one than any package.
func (f fields) text(tag uint32) string {
	for text := range f.texts(tag) {
		if len(text) <= maxText {
			return string(text)
		}
		break
	}
	return ""
}

func (f fields) pkg() Package {
	p := Package{f.text(tagName), f.text(tagVersion) + "-" + f.text(tagRelease)}
	if epoch := f.numbers(tagEpoch); len(epoch) > 0 && binary.BigEndian.Uint32(epoch) > 0 {
		p.Version = strconv.FormatUint(uint64(binary.BigEndian.Uint32(epoch)), 10) + ":" + p.Version
	}
	return p
}
