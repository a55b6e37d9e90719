package software

import (
	"bytes"
	"path"
	"regexp"
	"slices"
	"strings"
)

// python finds distributions by the names of their metadata directories, in the order in which the
// interpreter looks at directories: the first one of a name is the one that is imported.
func (l *look) python() {
	for _, dir := range l.pythonPath() {
		first := map[string]bool{} // a directory can have two of a name, and then it is not known which
		l.each(dir, func(entry string) {
			name, version, ok := l.distribution(dir, entry)
			if ok && (first[name] || !l.has(PyPI, name)) {
				first[name] = true
				l.add(Library{PyPI, name, version, Installed, path.Join(dir, entry)})
			}
		})
	}
	// The AWS CLI comes with an interpreter of its own, in a directory named after its version.
	if rest, ok := strings.CutSuffix(l.exePath, "/dist/aws"); ok && slices.Contains(l.wants(PyPI), "awscli") {
		if version := path.Base(rest); path.Base(path.Dir(rest)) == "v2" && isVersion(version) {
			l.add(Library{PyPI, "awscli", version, Loaded, l.exePath})
		}
	}
}

func isVersion(s string) bool { return s != "" && '0' <= s[0] && s[0] <= '9' }

// distribution reads the name of a directory or file that describes an installed distribution.
func (l *look) distribution(dir, entry string) (name, version string, ok bool) {
	rest, isDist := strings.CutSuffix(entry, ".dist-info")
	if !isDist {
		if rest, isDist = strings.CutSuffix(entry, ".egg-info"); !isDist {
			if rest, isDist = strings.CutSuffix(entry, ".egg"); !isDist {
				return "", "", false
			}
		}
	}
	name, version, _ = strings.Cut(rest, "-")
	name = pythonName(name)
	// A name with dashes is written with underscores, but older tools did not.
	for _, wanted := range l.wants(PyPI) {
		if tail, found := strings.CutPrefix(strings.ToLower(rest), wanted+"-"); found && isVersion(tail) {
			name, version = wanted, rest[len(wanted)+1:]
		}
	}
	if !slices.Contains(l.wants(PyPI), name) {
		return "", "", false
	}
	version, _, _ = strings.Cut(version, "-") // boto-2.49.0-py2.7.egg
	if isVersion(version) {
		return name, version, true
	}
	return name, l.metadataVersion(path.Join(dir, entry)), true
}

var separators = regexp.MustCompile(`[-_.]+`)

// pythonName is a distribution's name in its normal form (PEP 503).
func pythonName(name string) string {
	return separators.ReplaceAllString(strings.ToLower(name), "-")
}

// metadataVersion reads the version where the name does not have it.
func (l *look) metadataVersion(entry string) string {
	for _, name := range []string{"/METADATA", "/PKG-INFO", "/EGG-INFO/PKG-INFO", ""} {
		text, err := l.tree.head(entry+name, 8<<10)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(text) {
			if version, ok := bytes.CutPrefix(line, []byte("Version:")); ok {
				return string(version)
			}
		}
	}
	return ""
}

// pythonPath are the directories from which the interpreter imports, as far as they can be told
// without its environment variables.
func (l *look) pythonPath() []string {
	var dirs []string
	add := func(more ...string) {
		for _, dir := range more {
			if dir != "" && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	switch { // as sys.path[0]
	case l.script != "":
		add(path.Dir(l.script))
	case l.is("python"):
		add(l.cwd)
	}
	// Where a library was loaded from is certainly looked at.
	for _, name := range l.mapped {
		for _, site := range []string{"/site-packages/", "/dist-packages/"} {
			if before, _, found := strings.Cut(name, site); found {
				add(before + strings.TrimSuffix(site, "/"))
			}
		}
	}
	version := l.pythonVersion()
	if env, withSystem := l.virtualEnv(); env != "" {
		add(l.sites(env, version)...)
		if !withSystem {
			return dirs
		}
	}
	if home := l.home(); home != "" && version != "" {
		add(home + "/.local/lib/python" + version + "/site-packages")
	}
	for _, prefix := range l.pythonPrefixes() {
		add(l.sites(prefix, version)...)
		if prefix == "/usr" {
			add(l.sites("/usr/local", version)...)
		}
	}
	return dirs
}

var pythonVersions = regexp.MustCompile(`python-?(\d+\.\d+)`)

// pythonVersion is the version by which directories are named, as 3.11; "" if no path tells.
func (l *look) pythonVersion() string {
	for _, p := range append([]string{path.Base(l.exePath)}, l.mapped...) {
		if found := pythonVersions.FindStringSubmatch(p); found != nil {
			return found[1]
		}
	}
	return ""
}

// pythonPrefixes are where the interpreter is installed: the directory above that of the executable,
// or above that of the library where the interpreter is one. A frozen program has all beside it.
func (l *look) pythonPrefixes() []string {
	if l.is("python") {
		return []string{path.Dir(path.Dir(l.exePath))}
	}
	var prefixes []string
	for _, p := range l.mapped {
		if !strings.HasPrefix(path.Base(p), "libpython") {
			continue
		}
		if dir := path.Dir(p); dir == path.Dir(l.exePath) || dir == path.Dir(l.exePath)+"/_internal" {
			return []string{dir}
		}
		for _, lib := range []string{"/lib/", "/lib64/"} {
			if before, _, found := strings.Cut(p, lib); found {
				// The root's /lib can be a link to that of /usr.
				prefixes = append(prefixes, before)
				if before == "" {
					prefixes[len(prefixes)-1] = "/usr"
				}
			}
		}
	}
	return prefixes
}

// sites are the directories below prefix where distributions can be, whether or not they exist.
func (l *look) sites(prefix, version string) []string {
	dirs := []string{prefix}
	for _, lib := range []string{"/lib/python", "/lib64/python"} {
		for _, packages := range []string{"/site-packages", "/dist-packages"} {
			if version != "" {
				dirs = append(dirs, prefix+lib+version+packages)
			}
		}
	}
	if major, _, _ := strings.Cut(version, "."); major != "" {
		dirs = append(dirs, prefix+"/lib/python"+major+"/dist-packages") // Debian's
	}
	if l.is("python") {
		return dirs[1:]
	}
	return dirs // of a frozen program, the directory itself
}

// virtualEnv is the directory of the virtual environment that the program was started from, and
// whether libraries outside of it are looked at. The executable is no sign: it is a link there.
func (l *look) virtualEnv() (dir string, withSystem bool) {
	start := l.script // an interpreter found by PATH runs scripts beside it
	if len(l.caller.Args) > 0 && strings.Contains(l.caller.Args[0], "/") {
		start = l.absolute(l.caller.Args[0])
	}
	if start == "" {
		return "", false
	}
	dir = path.Dir(path.Dir(start))
	text, err := l.tree.head(dir+"/pyvenv.cfg", 4<<10)
	if err != nil {
		return "", false
	}
	setting := regexp.MustCompile(`(?mi)^\s*include-system-site-packages\s*=\s*true`)
	return dir, setting.Match(text)
}
