package software

import (
	"debug/buildinfo"
	"slices"
)

// goBytes is what is read of an executable to see whether it is Go's: what says so lies at the start
// of its data, if the executable has no section for it.
const goBytes = 16 << 20

// goBuild reads which modules a Go program was built from. It tells whether the executable is one,
// which is then all there is to know: no run of it has other libraries.
func (l *look) goBuild() bool {
	fd, err := reopen(l.exe)
	if err != nil {
		l.miss(l.exePath, err)
		return false
	}
	exe := &file{fd: fd, path: l.exePath, size: l.id.exe.size, budget: newBudget(l.tree.budget.ctx, goBytes)}
	defer exe.close()
	info, err := buildinfo.Read(exe)
	if err != nil {
		return false
	}
	l.found.Program = Program{
		Ecosystem: Go,
		Name:      word(info.Main.Path),
		Version:   goVersion(info.Main.Version),
		Main:      word(info.Path),
	}
	for _, module := range info.Deps {
		if !slices.Contains(l.wants(Go), module.Path) {
			continue
		}
		lib := Library{Go, module.Path, module.Version, Loaded, exe.path}
		if module.Replace != nil {
			lib.Version = module.Replace.Version // "" for a directory
		}
		l.add(lib)
	}
	return true
}

// goVersion is a module's version, "" for that of a working tree.
func goVersion(version string) string {
	if version == "(devel)" {
		return ""
	}
	return word(version)
}
