package software

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
)

const (
	// maxNested is how deep packages within packages are followed.
	maxNested = 4
	// maxJSON bounds a package.json; real ones have up to 100 KiB.
	maxJSON = 512 << 10
	maxDirs = 32 // that are looked at on the way up
)

// node finds packages as require() does, in node_modules of the script's directory and those above,
// and those that other packages brought for themselves.
func (l *look) node() {
	var seen []string
	for _, place := range l.places() {
		for _, dir := range above(place, maxDirs) {
			if slices.Contains(seen, dir) {
				continue
			}
			seen = append(seen, dir)
			l.nodeModules(dir+"/node_modules", maxNested)
			if l.found.Program.Name == "" && l.script != "" && place == path.Dir(l.script) {
				if p := l.packageJSON(dir); word(p.Name) != "" {
					l.found.Program = Program{Ecosystem: NPM, Name: word(p.Name), Version: word(p.Version)}
				}
			}
		}
	}
}

// nodeModules looks for packages in one directory of them, and in those inside its packages.
func (l *look) nodeModules(dir string, depth int) {
	n, err := l.tree.walk(dir)
	if err != nil {
		l.miss(dir, err)
		return
	}
	defer n.close()
	for _, name := range l.wants(NPM) {
		at := path.Join(dir, name)
		if p := l.packageJSON(at); p.Name == name {
			l.add(Library{NPM, name, p.Version, Installed, at + "/package.json"})
		}
	}
	if depth == 0 {
		return
	}
	l.nested(n, dir, depth, false)
}

// nested looks into the packages of a node_modules directory, or of a scope in one.
func (l *look) nested(n node, dir string, depth int, inScope bool) {
	err := l.tree.eachOf(n.fd, func(name string) bool {
		switch {
		case strings.HasPrefix(name, "@") && !inScope:
			if scope, err := l.tree.step(n, name); err == nil {
				l.nested(scope, path.Join(dir, name), depth, true)
				scope.close()
			}
		case name == ".pnpm": // one directory for each version, with a node_modules of its own
			l.each(path.Join(dir, name), func(name string) {
				if slices.ContainsFunc(l.wants(NPM), func(w string) bool {
					return strings.HasPrefix(name, strings.ReplaceAll(w, "/", "+")+"@")
				}) {
					l.nodeModules(path.Join(dir, ".pnpm", name, "node_modules"), 0)
				}
			})
		case !strings.HasPrefix(name, "."):
			if inner, err := l.tree.step(n, name); err == nil {
				if modules, err := l.tree.step(inner, "node_modules"); err == nil {
					modules.close()
					l.nodeModules(path.Join(dir, name, "node_modules"), depth-1)
				}
				inner.close()
			}
		}
		return true
	})
	l.miss(dir, err)
}

// nodePackage is what is wanted of a package.json.
type nodePackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// packageJSON reads the one in a directory; what is none is empty.
func (l *look) packageJSON(dir string) nodePackage {
	var p nodePackage
	text, ok := l.head(dir+"/package.json", maxJSON)
	if !ok || json.Unmarshal(text, &p) != nil {
		return nodePackage{}
	}
	return p
}
