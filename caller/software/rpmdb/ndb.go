package rpmdb

import "encoding/binary"

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

func eachInNDB(w *work, size int64, start []byte, do func([]byte) (more bool, err error)) error {
	le := binary.LittleEndian
	end := int64(le.Uint32(start[12:])) * ndbSlotPage
	if end > size {
		return errMalformed
	}
	var page [ndbSlotPage]byte
	for at := int64(0); at < end; at += ndbSlotPage {
		if _, err := w.ReadAt(page[:], at); err != nil {
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
			if _, err := w.ReadAt(intro[:], block*ndbBlock); err != nil {
				return err
			}
			length := int64(le.Uint32(intro[12:]))
			if string(intro[:4]) != blobMagic || length > size {
				return errMalformed
			}
			if read, err := w.next(length); err != nil {
				return err
			} else if !read {
				continue
			}
			blob := w.buffer(int(length))[:length]
			if _, err := w.ReadAt(blob, block*ndbBlock+ndbBlob); err != nil {
				return err
			}
			if more, err := do(blob); err != nil || !more {
				return err
			}
		}
	}
	return nil
}
