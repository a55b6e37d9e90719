package rpmdb

import "encoding/binary"

// Berkeley DB's hash access method (db_page.h of release 5.3): pages with a header of 26 bytes.
const (
	hashMagic = 0x061561

	pageHeader   = 26
	pageHash     = 13
	pageHashOld  = 2 // unsorted, before 4.6
	pageOverflow = 7

	itemOverflow = 3
	overflowSize = 12 // type, page, length
)

// eachInBDB goes through the values of a hash database.
func eachInBDB(w *work, size int64, start []byte, order binary.ByteOrder, do func([]byte) (more bool, err error)) error {
	pageSize, last := int64(order.Uint32(start[20:])), int64(order.Uint32(start[32:]))
	if pageSize < 512 || pageSize > 64<<10 || pageSize&(pageSize-1) != 0 || last >= size/pageSize {
		return errMalformed
	}
	b := &bdb{w, size, newPages(w, size, pageSize), newPages(w, size, pageSize), order, make([]byte, pageSize)}
	page := make([]byte, pageSize)
	for n := int64(1); n <= last; n++ {
		if err := b.pages.read(n, page); err != nil {
			return err
		}
		if kind := page[25]; kind != pageHash && kind != pageHashOld {
			continue
		}
		if more, err := b.values(page, do); err != nil || !more {
			return err
		}
	}
	return nil
}

type bdb struct {
	work   *work
	size   int64 // of the file
	pages  *pages
	chains *pages // of values that have pages of their own
	order  binary.ByteOrder
	page   []byte
}

// values goes through the values of one page. Keys and values take turns, and grow from its end.
func (b *bdb) values(page []byte, do func([]byte) (more bool, err error)) (more bool, err error) {
	count := int(b.order.Uint16(page[20:]))
	if pageHeader+2*count > len(page) {
		return false, errMalformed
	}
	at := func(n int) int { return int(b.order.Uint16(page[pageHeader+2*n:])) }
	for n := 1; n < count; n += 2 {
		begin, end := at(n), at(n-1)
		if begin >= end || end > len(page) {
			return false, errMalformed
		}
		item := page[begin:end]
		isChain := item[0] == itemOverflow && len(item) >= overflowSize
		value, length := item[1:], int64(len(item)-1)
		if isChain {
			length = int64(b.order.Uint32(item[8:]))
		}
		if length > b.size {
			return false, errMalformed
		}
		if read, err := b.work.next(length); err != nil {
			return false, err
		} else if !read {
			continue
		}
		if isChain {
			if value, err = b.chain(int64(b.order.Uint32(item[4:])), int(length)); err != nil {
				return false, err
			}
		}
		if more, err := do(value); err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

// chain reads a value of so many bytes from the pages that follow each other from n on.
func (b *bdb) chain(n int64, size int) ([]byte, error) {
	value := b.work.buffer(size)
	for len(value) < size {
		if err := b.chains.read(n, b.page); err != nil {
			return nil, err
		}
		length := int(b.order.Uint16(b.page[22:]))
		if b.page[25] != pageOverflow || length == 0 || pageHeader+length > len(b.page) {
			return nil, errMalformed
		}
		more := b.page[pageHeader : pageHeader+length]
		value = append(value, more[:min(length, size-len(value))]...)
		n = int64(b.order.Uint32(b.page[16:]))
	}
	return value, nil
}
