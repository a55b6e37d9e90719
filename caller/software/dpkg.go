package software

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	dpkgInfo   = "/var/lib/dpkg/info"
	dpkgStatus = "/var/lib/dpkg/status"
	// dpkgParts is where images made without dpkg have a status and a list for each package.
	dpkgParts = "/var/lib/dpkg/status.d"
	// maxLine is longer than any path, and what a list has beside it.
	maxLine = unix.PathMax + 64
)

// dpkgOwner reads the lists of all packages until one has the file, as dpkg -S does. An index of the
// lists would have to be kept for each container: 12 bytes for each of a hundred thousand files, for
// an answer that is remembered anyway.
func dpkgOwner(t tree, names []string) (Package, error) {
	name, err := inLists(t, dpkgInfo, ".list", lines(names, "", "/"))
	if err != nil {
		return Package{}, err
	}
	if name != "" {
		name, arch, _ := strings.Cut(name, ":")
		version, err := dpkgVersion(t, dpkgStatus, name, arch)
		return Package{"dpkg", name, version}, err
	}
	name, err = inLists(t, dpkgParts, ".md5sums", lines(names, "  ", ""))
	if err != nil || name == "" {
		return Package{}, err
	}
	version, err := dpkgVersion(t, dpkgParts+"/"+name, name, "")
	return Package{"dpkg", name, version}, err
}

// lines are the ends of lines that name a file: with or without its first slash.
func lines(names []string, before, slash string) [][]byte {
	var ends [][]byte
	for _, name := range names {
		start := before
		if before == "" {
			start = "\n"
		}
		ends = append(ends, []byte(start+slash+strings.TrimPrefix(name, "/")+"\n"))
	}
	return ends
}

// inLists finds the list in a directory that has one of the lines, and returns its name.
func inLists(t tree, dir, suffix string, ends [][]byte) (owner string, err error) {
	n, err := t.walk(dir)
	if isAbsent(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer n.close()
	buf := make([]byte, 16*maxLine)
	var failed error
	err = t.eachOf(n.fd, func(entry string) bool {
		name, ok := strings.CutSuffix(entry, suffix)
		if !ok {
			return true
		}
		has, err := t.fileHas(n, entry, buf, ends)
		if err != nil && failed == nil && !isAbsent(err) {
			failed = err
		}
		if has {
			owner = name
		}
		return !has && t.budget.ctx.Err() == nil
	})
	if owner != "" {
		return owner, nil
	}
	if err == nil {
		err = failed
	}
	return "", err
}

// fileHas tells whether a file in a directory contains one of the texts. It reads through buf.
func (t tree) fileHas(dir node, name string, buf []byte, texts [][]byte) (bool, error) {
	n, err := t.step(dir, name)
	if err != nil {
		return false, err
	}
	defer n.close()
	f, err := t.read(n)
	if err != nil {
		return false, err
	}
	defer f.close()
	kept := 0 // of the part before: a text can lie in both
	for offset := int64(0); ; {
		read, err := f.ReadAt(buf[kept:], offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		part := buf[:kept+read]
		for _, text := range texts {
			if bytes.Contains(part, text) {
				return true, nil
			}
		}
		if err != nil {
			return false, nil
		}
		offset += int64(read)
		kept = copy(buf, part[len(part)-maxLine:])
	}
}

// dpkgVersion finds a package's version in a status file. Where several architectures are installed,
// arch is the one that is meant.
func dpkgVersion(t tree, name, pkg, arch string) (string, error) {
	f, err := t.open(name)
	if err != nil {
		return "", err
	}
	defer f.close()
	var version string
	isPackage, isArch := false, false
	s := newScanner(f)
	for s.Scan() {
		key, value, _ := bytes.Cut(s.Bytes(), []byte(": "))
		switch string(key) {
		case "Package":
			version, isPackage, isArch = "", string(value) == pkg, arch == ""
		case "Architecture":
			isArch = arch == "" || string(value) == arch
		case "Version":
			version = string(value)
		}
		if isPackage && isArch && version != "" {
			return version, nil
		}
	}
	return "", s.Err()
}

// newScanner reads the lines of a file; those longer than 1 MiB end it.
func newScanner(f *file) *bufio.Scanner {
	s := bufio.NewScanner(io.NewSectionReader(f, 0, f.size))
	s.Buffer(make([]byte, 32<<10), 1<<20)
	return s
}
