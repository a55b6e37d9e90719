package software

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLibraries bounds what is kept of one program.
const maxLibraries = 32

// look is one look at a process.
type look struct {
	*process
	finder *Finder
	tree   tree     // for libraries
	mapped []string // paths of mapped files
	script string   // the file that an interpreter runs, without links; "" if unknown
	found  Software
}

// look finds what p runs, and remembers it unless the process ended too soon for an answer.
// Closely, also what takes longer.
func (f *Finder) look(ctx context.Context, p *process, closely bool) *Software {
	l := &look{
		process: p,
		finder:  f,
		tree:    tree{p.root, newBudget(ctx, librariesBytes)},
	}
	varies := l.all(ctx)
	if closely {
		l.libraryOwners(tree{l.root, newBudget(ctx, packagesBytes)})
	}
	if l.found.Missing == "" || !p.ended() {
		f.remember(p, &l.found, varies)
	}
	return &l.found
}

// all finds all that is to be found, and tells whether other runs of the executable have other
// libraries. Files can be made to harm: debug/elf, for one, may panic at them.
func (l *look) all(ctx context.Context) (varies bool) {
	defer func() {
		if cause := recover(); cause != nil {
			l.miss(l.exePath, fmt.Errorf("malformed file: %v", cause))
		}
	}()
	varies = l.caller.Program.Interpreter != ""
	if !l.goBuild() {
		varies = l.runtimes() || varies
	}
	l.owners(tree{l.root, newBudget(ctx, packagesBytes)})
	return varies
}

// runtimes finds the libraries of the interpreter or virtual machine that the process is, or has
// loaded as a library. It tells whether there is one.
func (l *look) runtimes() (found bool) {
	var err error
	if l.mapped, err = l.process.mapped(); err != nil {
		l.miss("memory map", err)
	}
	l.script = l.findScript()
	l.found.Script = shown(l.script, maxPath)
	for _, r := range []struct {
		interpreter, library string
		find                 func()
	}{
		{"python", "libpython", l.python},
		{"node", "libnode", l.node},
		{"java", "libjvm", l.java},
		{"ruby", "libruby", l.ruby},
		{"php", "libphp", l.php},
		{"", "libcoreclr", l.dotnet},
	} {
		if l.is(r.interpreter) || l.hasMapped(r.library) {
			r.find()
			found = true
		}
	}
	return found
}

// is tells whether the executable is that interpreter. One that is part of another program is not.
func (l *look) is(interpreter string) bool {
	return interpreter != "" && l.caller.Program.Interpreter == interpreter
}

// hasMapped tells whether a library is mapped whose file name begins so and goes on with a version.
func (l *look) hasMapped(prefix string) bool {
	return slices.ContainsFunc(l.mapped, func(p string) bool {
		rest, ok := strings.CutPrefix(path.Base(p), prefix)
		version, _, isLibrary := strings.Cut(rest, ".so")
		return ok && isLibrary && strings.Trim(version, "-.0123456789m") == "" // libpython3.6m.so
	})
}

// absolute is a path as the process names it, from its root.
func (l *look) absolute(name string) string {
	if strings.HasPrefix(name, "/") {
		return path.Clean(name)
	}
	if l.cwd == "" {
		return ""
	}
	return path.Join(l.cwd, name)
}

// places are the directories where the program begins to look for what it needs: that of the script,
// and the working directory.
func (l *look) places() []string {
	var dirs []string
	if l.script != "" {
		dirs = append(dirs, path.Dir(l.script))
	}
	if l.cwd != "" && !slices.Contains(dirs, l.cwd) {
		dirs = append(dirs, l.cwd)
	}
	return dirs
}

// above are a directory and those above it, at most count, nearest first.
func above(dir string, count int) []string {
	var dirs []string
	for range count {
		dirs = append(dirs, dir)
		if dir == "/" {
			break
		}
		dir = path.Dir(dir)
	}
	return dirs
}

// add keeps a library, once for each version.
func (l *look) add(lib Library) {
	lib.Version, lib.Path = word(lib.Version), shown(lib.Path, maxPath)
	same := func(known Library) bool {
		return known.Ecosystem == lib.Ecosystem && known.Name == lib.Name && known.Version == lib.Version
	}
	if slices.ContainsFunc(l.found.Libraries, same) {
		return
	}
	if len(l.found.Libraries) == maxLibraries {
		l.miss(lib.Ecosystem, errBudget)
		return
	}
	l.found.Libraries = append(l.found.Libraries, lib)
}

// has tells whether a library of that name was found.
func (l *look) has(ecosystem, name string) bool {
	return slices.ContainsFunc(l.found.Libraries, func(known Library) bool {
		return known.Ecosystem == ecosystem && known.Name == name
	})
}

// wants are the names looked for.
func (l *look) wants(ecosystem string) []string { return l.finder.wanted[ecosystem] }

// miss notes what could not be looked at. What is not there is no such thing.
func (l *look) miss(what string, err error) {
	if err == nil || l.found.Missing != "" || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return
	}
	l.found.Missing = shown(what, maxPath) + ": " + err.Error()
}

// head reads the beginning of a file, as far as there is one.
func (l *look) head(name string, limit int) ([]byte, bool) {
	text, err := l.tree.head(name, limit)
	l.miss(name, err)
	return text, err == nil
}

// each goes through the names in a directory, as far as there is one.
func (l *look) each(name string, do func(name string)) {
	l.miss(name, l.tree.each(name, func(name string) bool {
		do(name)
		return true
	}))
}
