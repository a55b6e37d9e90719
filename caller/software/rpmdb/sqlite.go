package rpmdb

import "encoding/binary"

// SQLite's file format, as its page "Database File Format" has it. Of the database only the table
// Packages is read: hnum, the row's number, and blob, the header.
const (
	sqliteMagic   = "SQLite format 3\x00"
	sqliteHeader  = 100 // before the first page's own
	pageInterior  = 5
	pageLeaf      = 13
	maxTableDepth = 20
	maxColumns    = 4 // of a table's, the first that are of interest
)

func eachInSQLite(w *work, size int64, start []byte, do func([]byte) (more bool, err error)) error {
	pageSize := int64(binary.BigEndian.Uint16(start[16:]))
	if pageSize == 1 {
		pageSize = 64 << 10
	}
	if pageSize < 512 || pageSize&(pageSize-1) != 0 || size < pageSize {
		return errMalformed
	}
	s := &sqlite{work: w, size: size, pages: newPages(w, size, pageSize), usable: int(pageSize) - int(start[20])}
	if s.usable < 480 {
		return errMalformed
	}
	var root int64
	err := s.rows(1, 0, func(record []byte) (more bool, err error) {
		columns := recordOf(record)
		if len(columns) >= 4 && string(columns[0].value) == "table" && string(columns[1].value) == "Packages" {
			root = columns[3].number()
		}
		return root == 0, nil
	})
	if err != nil {
		return err
	}
	s.stopped = false
	s.pages.left = s.pages.count
	return s.rows(root, 0, func(record []byte) (more bool, err error) {
		columns := recordOf(record)
		if len(columns) < 2 {
			return true, nil
		}
		return do(columns[1].value)
	})
}

type sqlite struct {
	work    *work
	size    int64 // of the file
	pages   *pages
	usable  int // bytes of a page
	stopped bool
	page    [maxTableDepth + 1][]byte // one of each depth
	more    []byte                    // a page of a record that has pages of its own
}

// rows goes through the records of a table from one of its pages on.
func (s *sqlite) rows(n int64, depth int, do func([]byte) (more bool, err error)) error {
	if depth > maxTableDepth {
		return errMalformed
	}
	if s.page[depth] == nil {
		s.page[depth] = make([]byte, s.usable)
	}
	page := s.page[depth]
	if err := s.pages.read(n-1, page); err != nil {
		return err
	}
	head := 0
	if n == 1 {
		head = sqliteHeader
	}
	kind, count := page[head], int(binary.BigEndian.Uint16(page[head+3:]))
	pointers := head + 8
	if kind == pageInterior {
		pointers += 4
	}
	if kind != pageInterior && kind != pageLeaf || pointers+2*count > len(page) {
		return errMalformed
	}
	for i := range count {
		at := int(binary.BigEndian.Uint16(page[pointers+2*i:]))
		if at+4 > len(page) {
			return errMalformed
		}
		var err error
		if kind == pageInterior {
			err = s.rows(int64(binary.BigEndian.Uint32(page[at:])), depth+1, do)
		} else {
			err = s.row(page[at:], do)
		}
		if err != nil || s.stopped {
			return err
		}
	}
	if kind == pageInterior {
		return s.rows(int64(binary.BigEndian.Uint32(page[head+8:])), depth+1, do)
	}
	return nil
}

// row reads the record of a cell, of which more than a page has room for is on pages of its own.
func (s *sqlite) row(cell []byte, do func([]byte) (more bool, err error)) error {
	length, n := varint(cell)
	_, m := varint(cell[n:])
	if n == 0 || m == 0 || length > uint64(s.size) {
		return errMalformed
	}
	if read, err := s.work.next(int64(length)); err != nil || !read {
		return err
	}
	cell = cell[n+m:]
	size, here := int(length), int(length)
	if most := s.usable - 35; size > most {
		least := (s.usable-12)*32/255 - 23
		if here = least + (size-least)%(s.usable-4); here > most {
			here = least
		}
	}
	if here > len(cell) {
		return errMalformed
	}
	payload := cell[:here]
	if here < size {
		if len(cell) < here+4 {
			return errMalformed
		}
		var err error
		payload = append(s.work.buffer(size), payload...)
		if payload, err = s.overflow(payload, int64(binary.BigEndian.Uint32(cell[here:])), size); err != nil {
			return err
		}
	}
	more, err := do(payload)
	s.stopped = !more
	return err
}

// overflow appends to the payload what lies on the pages from n on.
func (s *sqlite) overflow(payload []byte, n int64, size int) ([]byte, error) {
	if s.more == nil {
		s.more = make([]byte, s.usable)
	}
	for len(payload) < size {
		if err := s.pages.read(n-1, s.more); err != nil {
			return nil, err
		}
		more := s.more[4:]
		payload = append(payload, more[:min(len(more), size-len(payload))]...)
		n = int64(binary.BigEndian.Uint32(s.more))
	}
	return payload, nil
}

// column is one value of a record.
type column struct {
	kind  uint64
	value []byte
}

// number is an integer's value.
func (c column) number() int64 {
	if c.kind == 9 { // the number one, without a byte
		return 1
	}
	var n int64
	for _, b := range c.value[:min(len(c.value), 8)] {
		n = n<<8 | int64(b)
	}
	return n
}

// recordOf splits a record into its first columns; nil if it is malformed.
func recordOf(record []byte) []column {
	size, n := varint(record)
	if n == 0 || size > uint64(len(record)) || size < uint64(n) {
		return nil
	}
	kinds, values := record[n:size], record[size:]
	var columns []column
	for len(kinds) > 0 && len(columns) < maxColumns {
		kind, n := varint(kinds)
		length := lengthOf(kind)
		if n == 0 || length > uint64(len(values)) {
			return nil
		}
		columns = append(columns, column{kind, values[:length]})
		kinds, values = kinds[n:], values[length:]
	}
	return columns
}

// lengthOf is how many bytes a value of that kind has.
func lengthOf(kind uint64) uint64 {
	switch {
	case kind >= 12:
		return (kind - 12) / 2
	case kind <= 4:
		return kind
	case kind == 5:
		return 6
	case kind <= 7:
		return 8
	}
	return 0
}

// varint reads a number of one to nine bytes, and how many; 0 if b ends before.
func varint(b []byte) (n uint64, length int) {
	for i := range min(len(b), 9) {
		if i == 8 {
			return n<<8 | uint64(b[i]), 9
		}
		n = n<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return n, i + 1
		}
	}
	return 0, 0
}
