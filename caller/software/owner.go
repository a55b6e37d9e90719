package software

import (
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ownedFile is one whose owner was looked for.
type ownedFile struct {
	view view
	file fileID
	path string
}

// owned is what was found of one.
type owned struct {
	pkg   Package
	until time.Time
}

// owners finds the packages that the executable and the script came with.
func (l *look) owners(t tree) {
	if n, ok := l.same(t); ok {
		l.found.Package = l.ownerOf(t, n)
	}
	if l.script == "" {
		return
	}
	n, err := t.walk(l.script)
	if err != nil {
		l.miss(l.script, err)
		return
	}
	n.close()
	l.found.ScriptPackage = l.ownerOf(t, n)
}

// maxOwned bounds the libraries whose packages are looked for.
const maxOwned = 8

// libraryOwners finds the packages that installed libraries came with.
func (l *look) libraryOwners(t tree) {
	for _, lib := range l.found.Libraries[:min(len(l.found.Libraries), maxOwned)] {
		if lib.Certainty != Installed {
			continue
		}
		n, err := t.walk(lib.Path)
		if err != nil {
			continue // it is no file by itself
		}
		n.close()
		if p := l.ownerOf(t, n); p.Name != "" {
			if l.found.LibraryPackages == nil {
				l.found.LibraryPackages = map[string]Package{}
			}
			l.found.LibraryPackages[lib.Path] = p
		}
	}
}

// same finds the executable at its path, unless another file has taken its place: a package's new
// version does not make the process that still runs the old one newer.
func (l *look) same(t tree) (node, bool) {
	if l.exePath == "" {
		return node{}, false
	}
	n, err := t.walk(l.exePath)
	if err != nil {
		l.miss(l.exePath, err)
		return node{}, false
	}
	n.close()
	return n, l.isExecutable(n)
}

// ownerOf finds the package of a file, or remembers it.
func (l *look) ownerOf(t tree, n node) Package {
	id := fileID{
		dev: n.stat.Dev, inode: n.stat.Ino, size: n.stat.Size,
		modified: n.stat.Mtim.Nsec, modifiedSeconds: n.stat.Mtim.Sec,
	}
	key := ownedFile{l.id.view, id, n.path}
	f := l.finder
	f.mu.Lock()
	o, known := f.packages.Get(key)
	f.mu.Unlock()
	if known && time.Now().Before(o.until) {
		return o.pkg
	}
	p, err := findOwner(t, n.path)
	l.miss("package of "+n.path, err)
	if err == nil {
		f.mu.Lock()
		f.packages.Add(key, owned{p, time.Now().Add(freshFor)})
		f.mu.Unlock()
	}
	return p
}

// findOwner asks the package managers whose databases are in the tree.
func findOwner(t tree, name string) (Package, error) {
	names := spellings(name)
	for _, find := range []func(tree, []string) (Package, error){dpkgOwner, rpmOwner, apkOwner} {
		p, err := find(t, names)
		if err != nil || p.Name != "" {
			return Package{p.Manager, word(p.Name), word(p.Version)}, err
		}
	}
	return Package{}, nil
}

// merged are directories that are links to those of the same name below /usr, on most systems. Packages
// name a file as it was called when they were made.
var merged = []string{"/bin/", "/sbin/", "/lib/", "/lib64/", "/lib32/", "/libx32/"}

// spellings are the paths under which a package may have a file.
func spellings(name string) []string {
	isMerged := func(p string) bool {
		return slices.ContainsFunc(merged, func(dir string) bool { return strings.HasPrefix(p, dir) })
	}
	if bare, ok := strings.CutPrefix(name, "/usr"); ok && isMerged(bare) {
		return []string{name, bare}
	}
	if isMerged(name) {
		return []string{name, "/usr" + name}
	}
	return []string{name}
}

// isAbsent tells an error that says there is nothing.
func isAbsent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}
