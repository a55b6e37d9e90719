package software

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
)

// dotnet finds assemblies that are mapped. Their versions are in the program's list of what it was
// published with, which lies beside them.
func (l *look) dotnet() {
	for _, name := range l.mapped {
		assembly, ok := strings.CutSuffix(path.Base(name), ".dll")
		if ok && slices.Contains(l.wants(NuGet), assembly) {
			l.add(Library{NuGet, assembly, l.published(path.Dir(name), assembly), Loaded, name})
		}
	}
}

// published is the version of a library in the .deps.json files of a directory.
func (l *look) published(dir, library string) (version string) {
	l.each(dir, func(entry string) {
		if !strings.HasSuffix(entry, ".deps.json") || version != "" {
			return
		}
		var deps struct {
			Libraries map[string]struct{} `json:"libraries"`
		}
		text, ok := l.head(path.Join(dir, entry), 4<<20)
		if !ok || json.Unmarshal(text, &deps) != nil {
			return
		}
		for name := range deps.Libraries {
			if v, found := strings.CutPrefix(name, library+"/"); found {
				version = v
			}
		}
	})
	return version
}
