package main

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// libraries are where this machine has shared ones.
var libraries = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"}

// moduleFolders are those of a kernel's modules that may be asked for. The kernel calls modprobe.
var moduleFolders = []string{
	"net/ipv4", "net/ipv6", "net/netfilter", "net/bridge", "net/802", "net/llc", "drivers/net/veth*", "lib/libcrc32c*", "crypto/crc32c*",
}

// commonImage writes what all machines have: this program as their init, the tests, and the programs
// that those call, as this machine has them.
func commonImage(to string, tests []testBinary) (err error) {
	a, err := newArchive(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if target, err := os.Readlink(dir); err == nil {
			a.link(dir, target)
		}
	}
	for _, dir := range []string{"proc", "sys", "dev", "tmp", "run", "root", "mnt"} {
		a.dir(dir)
	}
	a.text("etc/passwd", []byte("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"))
	a.text("etc/group", []byte("root:x:0:\nnogroup:x:65534:\n"))
	self, err := os.Executable()
	if err != nil {
		return err
	}
	a.copy("init", self)
	used := []string{"modprobe"}
	for _, t := range tests {
		a.copy(t.inside(), t.file)
		used = append(used, t.programs...)
	}
	for _, u := range used {
		if err := a.programs(u); err != nil {
			return err
		}
	}
	return nil
}

// programs adds what a name in the table stands for: a program, or a pattern of files.
func (a *archive) programs(name string) error {
	found, _ := filepath.Glob(name)
	if !filepath.IsAbs(name) {
		path, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		found = []string{path}
	}
	if len(found) == 0 {
		return fmt.Errorf("no %s on this machine", name)
	}
	for _, path := range found {
		if err := a.program(path); err != nil {
			return err
		}
	}
	return nil
}

// program adds a file of this machine under its own name, with the links that lead to it and the
// libraries that it is linked with.
func (a *archive) program(name string) error {
	dir, err := filepath.EvalSymlinks(filepath.Dir(name))
	if err != nil {
		return err
	}
	if name = filepath.Join(dir, filepath.Base(name)); a.has(name) {
		return nil
	}
	if to, err := os.Readlink(name); err == nil {
		a.link(name, to)
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, to)
		}
		return a.program(to)
	}
	a.copy(name, name)
	needed, err := linkedWith(name)
	if err != nil {
		return fmt.Errorf("read what %s is linked with: %w", name, err)
	}
	for _, library := range needed {
		if err := a.program(library); err != nil {
			return err
		}
	}
	return nil
}

// linkedWith returns the interpreter and the libraries of a program or library, none for a script.
func linkedWith(name string) (paths []string, err error) {
	f, err := elf.Open(name)
	if format := (*elf.FormatError)(nil); errors.As(err, &format) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			interpreter, err := io.ReadAll(p.Open())
			if err != nil {
				return nil, err
			}
			paths = append(paths, strings.TrimRight(string(interpreter), "\x00"))
		}
	}
	imported, err := f.ImportedLibraries()
	for _, library := range imported {
		path, err := findLibrary(library)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, err
}

func findLibrary(name string) (string, error) {
	for _, dir := range libraries {
		if path := filepath.Join(dir, name); exists(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s in %s: %w", name, libraries, fs.ErrNotExist)
}

// machineImage writes what one machine has of its own: its kernel's modules, and what it is to do.
func machineImage(to string, k kernel, p plan) (err error) {
	a, err := newArchive(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	a.text(planFile, text)
	// Not in /lib, which the other image may have as a link.
	inside := filepath.Join("/usr/lib/modules", filepath.Base(k.modules))
	indexes, _ := filepath.Glob(filepath.Join(k.modules, "modules.*"))
	for _, index := range indexes {
		a.copy(filepath.Join(inside, filepath.Base(index)), index)
	}
	for _, folder := range moduleFolders {
		roots, _ := filepath.Glob(filepath.Join(k.modules, "kernel", folder))
		for _, root := range roots {
			if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					a.copy(filepath.Join(inside, strings.TrimPrefix(path, k.modules)), path)
				}
				return err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}
