package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// archive is an initramfs in the making: cpio in the format "newc", which the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst). Several may follow one another.
type archive struct {
	w    *bufio.Writer
	file *os.File
	seen map[string]bool
	err  error // the first
}

func newArchive(name string) (*archive, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	return &archive{w: bufio.NewWriter(f), file: f, seen: make(map[string]bool)}, nil
}

// has reports whether a name is in the archive, and keeps a place for it if not.
func (a *archive) has(name string) bool {
	name = strings.Trim(name, "/")
	had := a.seen[name]
	a.seen[name] = true
	return had
}

// add writes an entry, after the directories above it.
func (a *archive) add(name string, mode uint32, content io.Reader, size int64) {
	name = strings.Trim(name, "/")
	if dir := path.Dir(name); dir != "." && !a.seen[dir] {
		a.dir(dir)
	}
	a.has(name)
	inode := len(a.seen)
	a.header(inode, mode, size, name)
	if n, err := io.Copy(a.w, content); a.err == nil {
		if a.err = err; err == nil && n != size {
			a.err = fmt.Errorf("%s changed while it was read", name)
		}
	}
	a.pad(size)
}

func (a *archive) header(inode int, mode uint32, size int64, name string) {
	// magic, inode, mode, uid, gid, links, mtime, size, device (2), device of a node (2), length of the name, checksum
	n, err := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	if a.err == nil {
		a.err = err
	}
	a.pad(int64(n))
}

// pad fills up to a multiple of 4 bytes.
func (a *archive) pad(written int64) {
	_, _ = a.w.Write(make([]byte, (4-written%4)%4)) // the writer keeps its first error for Flush
}

func (a *archive) dir(name string) {
	a.add(name, 0o040755, strings.NewReader(""), 0)
}

func (a *archive) link(name, to string) {
	a.add(name, 0o120777, strings.NewReader(to), int64(len(to)))
}

func (a *archive) text(name string, text []byte) {
	a.add(name, 0o100644, strings.NewReader(string(text)), int64(len(text)))
}

// copy adds a file of this machine.
func (a *archive) copy(name, from string) {
	f, err := os.Open(from)
	if err != nil {
		a.err = err
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		a.err = err
		return
	}
	a.add(name, 0o100000|uint32(info.Mode()&fs.ModePerm), f, info.Size())
}

// close ends the archive. The next one begins where the kernel looks for it.
func (a *archive) close() error {
	a.header(0, 0, 0, "TRAILER!!!")
	if err := a.w.Flush(); a.err == nil {
		a.err = err
	}
	if err := a.file.Close(); a.err == nil {
		a.err = err
	}
	return a.err
}
