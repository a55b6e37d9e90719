package software

import (
	"encoding/json"
	"slices"
)

// php finds the packages that Composer installed beside the script.
func (l *look) php() {
	for _, place := range l.places() {
		for _, dir := range above(place, maxLockDirs) {
			if l.installedJSON(dir + "/vendor/composer/installed.json") {
				return
			}
		}
	}
}

// installedJSON reads Composer's list of packages, and tells whether there is one.
func (l *look) installedJSON(name string) bool {
	text, ok := l.head(name, 8<<20)
	if !ok {
		return false
	}
	type entry struct{ Name, Version string }
	var list struct{ Packages []entry }
	if json.Unmarshal(text, &list) != nil && json.Unmarshal(text, &list.Packages) != nil { // as Composer 1 wrote it
		return false
	}
	for _, p := range list.Packages {
		if slices.Contains(l.wants(Composer), p.Name) {
			l.add(Library{Composer, p.Name, p.Version, Installed, name})
		}
	}
	return true
}
