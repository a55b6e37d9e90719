package software

import (
	"bytes"
	"path"
	"slices"
	"strings"
)

// maxLockDirs is how far up a Gemfile.lock or vendor directory is looked for.
const maxLockDirs = 6

// ruby finds gems: those that the program's Gemfile.lock fixes, or else all versions that are
// installed.
func (l *look) ruby() {
	for _, place := range l.places() {
		for _, dir := range above(place, maxLockDirs) {
			if l.gemfileLock(dir + "/Gemfile.lock") {
				return
			}
		}
	}
	for _, home := range l.gemHomes() {
		l.gems(home + "/specifications")
	}
}

// gemfileLock reads the versions in a Gemfile.lock, and tells whether it has any that is wanted.
func (l *look) gemfileLock(name string) bool {
	text, err := l.tree.head(name, 1<<20)
	if err != nil {
		return false
	}
	found := false
	for line := range bytes.Lines(text) {
		// Gems have four blanks before them, and what they need has six.
		gem, ok := strings.CutPrefix(string(bytes.TrimRight(line, "\r\n")), "    ")
		gem, version, hasVersion := strings.Cut(gem, " (")
		if ok && hasVersion && slices.Contains(l.wants(RubyGems), gem) {
			found = true
			l.add(Library{RubyGems, gem, strings.TrimSuffix(version, ")"), Installed, name})
		}
	}
	return found
}

// gems reads the names of a directory of specifications.
func (l *look) gems(dir string) {
	l.each(dir, func(entry string) {
		gem, ok := strings.CutSuffix(entry, ".gemspec")
		if !ok {
			return
		}
		for _, name := range l.wants(RubyGems) {
			if version, ok := strings.CutPrefix(gem, name+"-"); ok && isVersion(version) {
				l.add(Library{RubyGems, name, version, Installed, path.Join(dir, entry)})
			}
		}
	})
}

// gemHomes are the directories in which RubyGems looks, as far as they can be told without the
// process's environment variables.
func (l *look) gemHomes() []string {
	var homes []string
	add := func(dir string) {
		if !slices.Contains(homes, dir) {
			homes = append(homes, dir)
		}
	}
	// What was loaded from one shows where it is.
	for _, name := range l.mapped {
		for _, part := range []string{"/gems/", "/extensions/"} {
			if before, _, found := strings.Cut(name, part); found && !strings.HasSuffix(before, "/lib/ruby") {
				add(before)
			}
		}
	}
	prefix := path.Dir(path.Dir(l.exePath))
	parents := []string{prefix + "/lib/ruby/gems"}
	switch prefix {
	case "/usr": // of Debian, and of Fedora and its kin
		parents = append(parents, "/var/lib/gems", "/usr/share/rubygems-integration")
		add("/usr/share/gems")
		add("/usr/local/share/gems")
	case "/usr/local":
		add("/usr/local/bundle") // as Ruby's own images set it up
	}
	for _, place := range l.places() {
		parents = append(parents, place+"/vendor/bundle/ruby")
	}
	if home := l.home(); home != "" {
		parents = append(parents, home+"/.gem/ruby", home+"/.local/share/gem/ruby")
	}
	for _, parent := range parents { // each has a directory for every version of Ruby
		l.each(parent, func(version string) { add(path.Join(parent, version)) })
	}
	return homes
}
