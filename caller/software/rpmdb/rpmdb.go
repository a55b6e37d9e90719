// Package rpmdb finds the package that owns a file in a database of RPM, in each of the forms that
// databases have had: Berkeley DB until RPM 4.15 (Amazon Linux 2, CentOS and RHEL until 8), SQLite
// since (Amazon Linux 2023, Fedora, RHEL 9), and NDB (SUSE).
//
// It reads the file that it is given and nothing else, neither locks nor journals, keeps no more
// than one package at a time, and takes no database for granted: what a look-up costs is bounded, and
// grows with the database's size and no faster.
package rpmdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Package is one that is installed.
type Package struct {
	Name    string
	Version string // [epoch:]version-release
}

// errMalformed is a database that contradicts itself.
var errMalformed = errors.New("malformed database")

// Owner returns the package that has a file of one of the paths, which are absolute and clean.
// It is false without an error if there is none. It ends soon after ctx.
func Owner(ctx context.Context, db io.ReaderAt, size int64, paths ...string) (p Package, found bool, err error) {
	return newWork(ctx, db, size).owner(size, paths)
}

func (w *work) owner(size int64, paths []string) (p Package, found bool, err error) {
	var start [96]byte
	if _, err := w.ReadAt(start[:], 0); err != nil {
		return Package{}, false, fmt.Errorf("read the database's header: %w", err)
	}
	wanted := split(paths)
	look := func(header []byte) (more bool, err error) {
		p, found, err = w.ownerIn(header, wanted)
		return !found, err
	}
	switch {
	case bytes.HasPrefix(start[:], []byte(sqliteMagic)):
		err = eachInSQLite(w, size, start[:], look)
	case bytes.HasPrefix(start[:], []byte("RpmP")):
		err = eachInNDB(w, size, start[:], look)
	case binary.LittleEndian.Uint32(start[12:]) == hashMagic:
		err = eachInBDB(w, size, start[:], binary.LittleEndian, look)
	case binary.BigEndian.Uint32(start[12:]) == hashMagic:
		err = eachInBDB(w, size, start[:], binary.BigEndian, look)
	default:
		return Package{}, false, errors.New("no database of RPM in a known form")
	}
	if err == nil && w.passed {
		err = errTooLarge // and may be the owner
	}
	if err != nil && !found {
		return Package{}, false, fmt.Errorf("read the database: %w", err)
	}
	return p, found, nil
}

// pages reads the pages of a file, each of them once at most: whoever asks for more goes in circles.
type pages struct {
	r     io.ReaderAt
	size  int64 // of a page
	count int64
	left  int64
}

func newPages(r io.ReaderAt, fileSize, pageSize int64) *pages {
	count := fileSize / pageSize
	return &pages{r, pageSize, count, count}
}

// read fills buf from the beginning of page n.
func (p *pages) read(n int64, buf []byte) error {
	if n < 0 || n >= p.count || p.left == 0 {
		return errMalformed
	}
	p.left--
	_, err := p.r.ReadAt(buf, n*p.size)
	return err
}
