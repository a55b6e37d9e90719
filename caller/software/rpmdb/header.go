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
type filePath struct{ dir, base string }

func split(paths []string) []filePath {
	var parts []filePath
	for _, path := range paths {
		slash := strings.LastIndexByte(path, '/')
		parts = append(parts, filePath{path[:slash+1], path[slash+1:]})
	}
	return parts
}

// owner returns the package of a header, if a wanted file is one of its own.
func owner(header []byte, wanted []filePath) (Package, bool) {
	mayHave := func(f filePath) bool { return bytes.Contains(header, append([]byte(f.base), 0)) }
	if !slices.ContainsFunc(wanted, mayHave) {
		return Package{}, false
	}
	h, ok := parse(header)
	if !ok {
		return Package{}, false
	}
	n := 0
	for base := range h.texts(tagBaseNames) {
		for _, file := range wanted {
			if string(base) == file.base && h.text(tagDirNames, h.number(tagDirIndexes, n)) == file.dir {
				return h.pkg(), true
			}
		}
		n++
	}
	return Package{}, false
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

// text is a tag's string number n, "" if it has none.
func (f fields) text(tag uint32, n int) string {
	for text := range f.texts(tag) {
		if n == 0 {
			return string(text)
		}
		n--
	}
	return ""
}

// number is a tag's number n, -1 if it has none.
func (f fields) number(tag uint32, n int) int {
	data, count := f.find(tag, typeInt32)
	if n >= count || len(data)/4 <= n {
		return -1
	}
	return int(binary.BigEndian.Uint32(data[4*n:]))
}

func (f fields) pkg() Package {
	p := Package{f.text(tagName, 0), f.text(tagVersion, 0) + "-" + f.text(tagRelease, 0)}
	if epoch := f.number(tagEpoch, 0); epoch > 0 {
		p.Version = strconv.Itoa(epoch) + ":" + p.Version
	}
	return p
}
