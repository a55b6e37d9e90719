package rpmdb

import (
	"encoding/binary"
	"io"
)

// RPM's own form (rpmpkg.c of RPM 4.14): a header, slots that say where packages are, and those in
// blocks of 16 bytes. All numbers are little-endian.
const (
	ndbHeader   = 32
	ndbSlotPage = 4096
	ndbSlot     = 16 // magic, package, first block, count of blocks
	ndbBlock    = 16
	ndbBlob     = 16 // magic, package, generation, size
	slotMagic   = "Slot"
	blobMagic   = "BlbS"
)

func eachInNDB(r io.ReaderAt, size int64, start []byte, do func([]byte) bool) error {
	le := binary.LittleEndian
	end := int64(le.Uint32(start[12:])) * ndbSlotPage
	if end > size {
		return errMalformed
	}
	var page [ndbSlotPage]byte
	var blob []byte
	left := size // what all packages can have together
	for at := int64(0); at < end; at += ndbSlotPage {
		if _, err := r.ReadAt(page[:], at); err != nil {
			return err
		}
		first := 0
		if at == 0 {
			first = ndbHeader
		}
		for s := first; s < ndbSlotPage; s += ndbSlot {
			slot := page[s : s+ndbSlot]
			if string(slot[:4]) != slotMagic {
				return errMalformed
			}
			block := int64(le.Uint32(slot[8:]))
			if block == 0 {
				continue // free
			}
			var intro [ndbBlob]byte
			if _, err := r.ReadAt(intro[:], block*ndbBlock); err != nil {
				return err
			}
			length := int64(le.Uint32(intro[12:]))
			if left -= length; string(intro[:4]) != blobMagic || length > maxHeader || left < 0 {
				return errMalformed
			}
			if int64(cap(blob)) < length {
				blob = make([]byte, length)
			}
			if _, err := r.ReadAt(blob[:length], block*ndbBlock+ndbBlob); err != nil {
				return err
			}
			if !do(blob[:length]) {
				return nil
			}
		}
	}
	return nil
}
