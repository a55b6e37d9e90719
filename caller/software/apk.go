package software

import (
	"slices"
	"strings"
)

// apkDatabases is where Alpine lists what is installed.
var apkDatabases = []string{"/lib/apk/db/installed", "/usr/lib/apk/db/installed"}

// apkOwner goes through the list: a package has lines P for its name, V for its version, F for a
// directory and R for a file in the directory before, and an empty one at its end.
func apkOwner(t tree, names []string) (Package, error) {
	for _, name := range apkDatabases {
		f, err := t.open(name)
		if isAbsent(err) {
			continue
		}
		if err != nil {
			return Package{}, err
		}
		defer f.close()
		var p Package
		dir := ""
		s := newScanner(f)
		for s.Scan() {
			key, value, _ := strings.Cut(s.Text(), ":")
			switch key {
			case "P":
				p = Package{Manager: "apk", Name: value}
			case "V":
				p.Version = value
			case "F":
				dir = "/" + value + "/"
			case "R":
				if slices.Contains(names, dir+value) {
					return p, nil
				}
			}
		}
		return Package{}, s.Err()
	}
	return Package{}, nil
}
