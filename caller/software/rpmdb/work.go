package rpmdb

import (
	"context"
	"errors"
	"io"
	"math/bits"
)

// What one look-up may cost. Whoever writes a database must not decide it.
const (
	// maxHeader bounds a package's header, the one thing of size that is kept in memory. rpm 4 keeps
	// some 150 bytes for each file of a package, and about as much again where files are signed: the
	// 20,000 or so of kernel-devel make 3 to 6 MB. A package that has more is passed over.
	maxHeader = 8 << 20
	// maxBytes bounds what is read, and what of it is looked into. Databases have 100 MB on a large host.
	maxBytes = 256 << 20
	// maxHeaders bounds the packages; a large host has 5,000.
	maxHeaders = 1 << 16
	// maxNames bounds the names of files and directories that are compared, those of packages that
	// have a file named like the one looked for.
	maxNames = 1 << 22
	// checkEvery is after how many names it is asked whether the look-up is still wanted.
	checkEvery = 1 << 10
)

var (
	errTooMuch  = errors.New("more in the database than is looked at")
	errTooLarge = errors.New("a package is too large to be looked at")
)

// work is what is left to do for one look-up.
type work struct {
	ctx     context.Context
	db      io.ReaderAt
	unread  int64 // bytes
	inside  int64 // bytes that headers can have together: no two of them share any
	headers int   // seen
	names   int   // seen
	passed  bool  // a header was too large
	header  []byte
}

func newWork(ctx context.Context, db io.ReaderAt, size int64) *work {
	return &work{ctx: ctx, db: db, unread: maxBytes, inside: min(size, maxBytes)}
}

// ReadAt is that of [io.ReaderAt].
func (w *work) ReadAt(p []byte, offset int64) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	if w.unread -= int64(len(p)); w.unread < 0 {
		return 0, errTooMuch
	}
	return w.db.ReadAt(p, offset)
}

// next counts a header of so many bytes, and tells whether it is to be read.
func (w *work) next(length int64) (read bool, err error) {
	if err := w.ctx.Err(); err != nil {
		return false, err
	}
	if w.headers++; w.headers > maxHeaders {
		return false, errTooMuch
	}
	if length > maxHeader {
		w.passed = true
		return false, nil
	}
	if w.inside -= length; w.inside < 0 {
		return false, errTooMuch
	}
	return true, nil
}

// name counts a name.
func (w *work) name() error {
	if w.names++; w.names > maxNames {
		return errTooMuch
	}
	if w.names%checkEvery == 0 {
		return w.ctx.Err()
	}
	return nil
}

// buffer returns an empty slice with room for a header of so many bytes, the same as before if it
// can. It grows by doubling: all of them together have at most twice maxHeader.
func (w *work) buffer(length int) []byte {
	if cap(w.header) < length {
		w.header = nil // not two at a time
		w.header = make([]byte, 0, 1<<bits.Len(uint(length-1)))
	}
	return w.header[:0]
}
