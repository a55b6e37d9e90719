package software

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
)

var errZip = errors.New("malformed zip archive")

// zipEntry is a file in an archive.
type zipEntry struct {
	name   string
	method uint16
	size   int64 // as it lies in the archive
	offset int64 // of its header
}

// zipArchive is read without keeping its directory: archive/zip keeps an entry for each file, and a
// jar may have 100,000, or say that it has.
type zipArchive struct {
	r    io.ReaderAt
	size int64
	base int64 // where the archive begins: a script can stand before it
}

const (
	zipStored   = 0
	zipDeflated = 8
	endSize     = 22
	maxZipName  = 512
)

// each calls do with the entries of the archive's directory until it says false. An entry of more
// than 4 GiB is left out.
func (z *zipArchive) each(do func(zipEntry) bool) error {
	start, size, err := z.directory()
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(z.r, start, size), 16<<10)
	var header [46]byte
	for {
		if _, err := io.ReadFull(r, header[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return zipError(err)
		}
		if !bytes.HasPrefix(header[:], []byte("PK\x01\x02")) {
			return errZip
		}
		le := binary.LittleEndian
		nameSize, more := int(le.Uint16(header[28:])), int(le.Uint16(header[30:]))+int(le.Uint16(header[32:]))
		entry := zipEntry{
			method: le.Uint16(header[10:]),
			size:   int64(le.Uint32(header[20:])),
			offset: int64(le.Uint32(header[42:])),
		}
		const elsewhere = 1<<32 - 1 // in the extra field
		if nameSize <= maxZipName && entry.size < elsewhere && entry.offset < elsewhere {
			name, err := r.Peek(nameSize)
			if err != nil {
				return zipError(err)
			}
			entry.name = string(name)
			if !do(entry) {
				return nil
			}
		}
		if _, err := r.Discard(nameSize + more); err != nil {
			return zipError(err)
		}
	}
}

// directory finds where the directory of the archive lies, from the record at its end.
func (z *zipArchive) directory() (start, size int64, err error) {
	var tail []byte
	end := -1
	for _, comment := range []int64{1 << 10, 1 << 16} { // few have one at all
		tail = make([]byte, min(z.size, endSize+comment))
		if _, err := z.r.ReadAt(tail, z.size-int64(len(tail))); err != nil && err != io.EOF {
			return 0, 0, err
		}
		if end = bytes.LastIndex(tail, []byte("PK\x05\x06")); end >= 0 {
			break
		}
	}
	if end < 0 || len(tail)-end < endSize {
		return 0, 0, errZip
	}
	le := binary.LittleEndian
	size, start = int64(le.Uint32(tail[end+12:])), int64(le.Uint32(tail[end+16:]))
	at := z.size - int64(len(tail)) + int64(end)
	// More than 65,535 entries, or 4 GiB: the record before this one counts.
	if locator := end - 20; locator >= 0 && bytes.HasPrefix(tail[locator:], []byte("PK\x06\x07")) {
		var record [56]byte
		at = int64(le.Uint64(tail[locator+8:]))
		if at < 0 || at > z.size {
			return 0, 0, errZip
		}
		if _, err := z.r.ReadAt(record[:], at); err != nil || !bytes.HasPrefix(record[:], []byte("PK\x06\x06")) {
			return 0, 0, errZip
		}
		size, start = int64(le.Uint64(record[40:])), int64(le.Uint64(record[48:]))
	}
	if size < 0 || start < 0 || size > at || start > at-size {
		return 0, 0, errZip
	}
	z.base = at - size - start
	return at - size, size, nil
}

// content is where the bytes of an entry lie.
func (z *zipArchive) content(e zipEntry) (*io.SectionReader, error) {
	var header [30]byte
	if _, err := z.r.ReadAt(header[:], z.base+e.offset); err != nil {
		return nil, zipError(err)
	}
	if !bytes.HasPrefix(header[:], []byte("PK\x03\x04")) {
		return nil, errZip
	}
	le := binary.LittleEndian
	start := z.base + e.offset + int64(len(header)) + int64(le.Uint16(header[26:])) + int64(le.Uint16(header[28:]))
	if start+e.size > z.size {
		return nil, errZip
	}
	return io.NewSectionReader(z.r, start, e.size), nil
}

// read returns the beginning of an entry, unpacked, up to limit bytes.
func (z *zipArchive) read(e zipEntry, limit int64) ([]byte, error) {
	packed, err := z.content(e)
	if err != nil {
		return nil, err
	}
	switch e.method {
	case zipStored:
		return io.ReadAll(io.LimitReader(packed, limit))
	case zipDeflated:
		r := flate.NewReader(packed)
		defer r.Close()
		return io.ReadAll(io.LimitReader(r, limit))
	}
	return nil, errZip
}

// zipError is errZip for an archive that ends early, and else the reader's error.
func zipError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errZip
	}
	return err
}
