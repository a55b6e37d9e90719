package client

import (
	"strings"

	"github.com/imds-bridge/imds-bridge/imds"
)

// Ecosystems that a [Library] can come from.
const (
	Go       = "go"
	PyPI     = "pypi"
	NPM      = "npm"
	Maven    = "maven"
	RubyGems = "gem"
	Composer = "composer"
	NuGet    = "nuget"
)

// Library is one that a process has loaded, or a module that it was built from.
type Library struct {
	Ecosystem string // one of the constants above
	Name      string // as its ecosystem names it; of Maven the artifact, with or without its group
	Version   string
}

// Package is what a distribution calls the owner of an executable.
type Package struct {
	Name, Version string
}

// Evidence is what is known of the process behind a call, and what the call says of itself. All of it
// may be unknown, and most of it is what others chose: nothing of it is trusted to be short or
// printable.
//
// Path and the other headers are not asked: they tell no client from another.
type Evidence struct {
	// Kind of the call, 0 if it is not known: what fetches or sends a token is no client that knows v1 alone.
	Kind      imds.Kind
	UserAgent string
	// Executable is a path or a base name, as the process sees it.
	Executable string
	// Script is the script, module, jar or main class that an interpreter runs, or the main module
	// that a Go binary was built from.
	Script string
	// Parents are the scripts or executables that started the process, nearest first. They name
	// the shell script behind a curl.
	Parents   []string
	Libraries []Library
	Package   Package // that owns the executable, or the script
}

// Source is a kind of evidence. A [Client] rests on one or more of them.
type Source uint8

const (
	FromUserAgent Source = 1 << iota
	FromExecutable
	FromScript
	FromParent
	FromLibrary
	FromPackage
)

var sourceNames = [...]string{"user_agent", "executable", "script", "parent", "library", "package"}

// Has tells whether all of t are in s.
func (s Source) Has(t Source) bool { return s&t == t }

// String lists the sources with commas between them; "" for none.
func (s Source) String() string {
	var b strings.Builder
	for i, name := range sourceNames {
		if !s.Has(1 << i) {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(name)
	}
	return b.String()
}

// maxBase is the longest name of a program that is looked up, in bytes; Linux allows 255.
const maxBase = 64

// base is the last element of a path, "" when no program of the table can be called so.
func base(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		path = path[i+1:]
	}
	if len(path) > maxBase {
		return ""
	}
	return path
}

// family is what kind of interpreter runs: "python" for python3.11, "native" for what is none and
// "" for what is not known.
func family(executable string) string {
	name := base(executable)
	if name == "" {
		return ""
	}
	for _, f := range families {
		if rest, found := strings.CutPrefix(name, f.prefix); found && isVersionTail(rest) {
			return f.name
		}
	}
	return "native"
}

var families = [...]struct{ prefix, name string }{
	{"python", "python"}, {"pypy", "python"},
	{"nodejs", "node"}, {"node", "node"},
	{"java", "java"}, {"jruby", "java"},
	{"ruby", "ruby"},
	{"php-fpm", "php"}, {"php-cgi", "php"}, {"php", "php"},
	{"perl", "perl"},
	{"dotnet", "dotnet"}, {"mono", "dotnet"}, {"pwsh", "dotnet"},
	{"bash", "shell"}, {"dash", "shell"}, {"ksh", "shell"}, {"zsh", "shell"}, {"sh", "shell"},
}

// isVersionTail tells "3.11" and "-8.2", which interpreters have behind their names, from the rest
// of another word.
func isVersionTail(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && c != '.' && c != '-' {
			return false
		}
	}
	return true
}
