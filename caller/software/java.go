package software

import (
	"bytes"
	"errors"
	"path"
	"slices"
	"strings"
)

const (
	maxJars = 4096
	// maxNestedJars bounds how many jars in a jar are looked into.
	maxNestedJars = 16
	maxProperties = 64 << 10
)

// java looks into the jars that the process has open: a virtual machine keeps open what it loads
// classes from. What is of interest inside says its own version, wherever it was packed into.
func (l *look) java() {
	seen := 0
	err := l.eachOpen(func(f *file) {
		if !isJar(f.path) {
			return
		}
		if seen++; seen <= maxJars {
			l.jar(f)
		}
	})
	l.miss("open files", err)
	if seen > maxJars {
		l.miss("open jars", errBudget)
	}
}

func isJar(name string) bool {
	ext := path.Ext(strings.TrimSuffix(name, " (deleted)"))
	return ext == ".jar" || ext == ".war" || ext == ".ear"
}

// jar looks into an open jar.
func (l *look) jar(f *file) {
	z := &zipArchive{r: f, size: f.size}
	before := len(l.found.Libraries)
	err := l.jarEntries(z, f.path, true)
	if err != nil && !errors.Is(err, errZip) {
		l.miss(f.path, err)
	}
	if len(l.found.Libraries) > before {
		return
	}
	// One whose metadata was left out still has its name, if that is not a common word.
	if artifact, version := jarName(f.path); strings.Contains(artifact, "-") {
		if name := l.artifact(artifact); name != "" {
			l.add(Library{Maven, name, version, Loaded, f.path})
		}
	}
}

// jarEntries finds libraries in an archive, and in the jars that lie in it unless it is itself one of those.
func (l *look) jarEntries(z *zipArchive, at string, outermost bool) error {
	var nested, wanted []zipEntry
	err := z.each(func(e zipEntry) bool {
		switch {
		case e.name == "META-INF/MANIFEST.MF" && outermost && at == l.script, e.name == versionInfo, l.pomOf(e.name) != "":
			wanted = append(wanted, e)
		case outermost && e.method == zipStored && strings.HasSuffix(e.name, ".jar"):
			if artifact, _ := jarName(e.name); l.artifact(artifact) != "" {
				nested = append(nested, e)
			}
		}
		return len(wanted)+len(nested) < maxLibraries
	})
	for _, e := range wanted {
		if text, err := z.read(e, maxProperties); err == nil {
			l.jarFile(e.name, text, at)
		}
	}
	for _, e := range nested[:min(len(nested), maxNestedJars)] {
		if content, err := z.content(e); err == nil {
			inner := &zipArchive{r: content, size: e.size}
			_ = l.jarEntries(inner, at+"!/"+e.name, false)
		}
	}
	return err
}

// versionInfo says which version the first AWS SDK for Java is, also where it was packed into
// another jar without its Maven metadata.
const versionInfo = "com/amazonaws/sdk/versionInfo.properties"

// jarFile reads what one file of a jar says.
func (l *look) jarFile(name string, text []byte, at string) {
	switch {
	case name == "META-INF/MANIFEST.MF":
		if name := title(property(text, "Implementation-Title", ':')); name != "" {
			version := word(property(text, "Implementation-Version", ':'))
			l.found.Program = Program{Ecosystem: Maven, Name: name, Version: version}
		}
	case name == versionInfo:
		const core = "com.amazonaws:aws-java-sdk-core"
		if slices.Contains(l.wants(Maven), core) {
			l.add(Library{Maven, core, property(text, "version", '='), Loaded, at})
		}
	default:
		l.add(Library{Maven, l.pomOf(name), property(text, "version", '='), Loaded, at})
	}
}

// pomOf is the library whose pom.properties an entry is; "" if it is none that is wanted.
func (l *look) pomOf(entry string) string {
	rest, ok := strings.CutPrefix(entry, "META-INF/maven/")
	if !ok {
		return ""
	}
	if rest, ok = strings.CutSuffix(rest, "/pom.properties"); !ok {
		return ""
	}
	if name := strings.Replace(rest, "/", ":", 1); slices.Contains(l.wants(Maven), name) {
		return name
	}
	return ""
}

// artifact is the library with that artifact id; "" if it is none that is wanted.
func (l *look) artifact(id string) string {
	for _, name := range l.wants(Maven) {
		if _, artifact, _ := strings.Cut(name, ":"); artifact == id {
			return name
		}
	}
	return ""
}

// jarName splits the name of a jar as Maven gives it: artifact-version.jar.
func jarName(name string) (artifact, version string) {
	name = strings.TrimSuffix(path.Base(name), ".jar")
	for i := range len(name) - 1 {
		if name[i] == '-' && isVersion(name[i+1:]) {
			return name[:i], name[i+1:]
		}
	}
	return name, ""
}

// property is the value of a name in lines of name=value.
func property(text []byte, name string, separator byte) string {
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, append([]byte(name), separator)); ok {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}
