package software

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

// Certainty is how surely a process uses a library that was found.
type Certainty string

const (
	// Loaded: it is linked into the executable, or the process has its file open or mapped.
	Loaded Certainty = "loaded"
	// Installed: it lies where the runtime of the process looks for libraries. A script that is read
	// and closed leaves no trace of which ones it took.
	Installed Certainty = "installed"
)

// Library is one that speaks to IMDS, or that others use to.
type Library struct {
	Ecosystem string // one of the constants above
	Name      string // as its ecosystem names it; of Maven group:artifact
	Version   string // "" if it does not say
	Certainty Certainty
	// Path is the file or directory that says so, as the process sees it.
	Path string
}

// Program is what the executable or script calls itself.
type Program struct {
	Ecosystem string
	Name      string // main module, package or jar title
	Version   string // "" if it does not say, as a Go program built from a working tree
	// Main is the path of the main package of a Go program: several programs can be of one module.
	Main string
}

// Package is of a distribution.
type Package struct {
	Manager string // dpkg, rpm or apk
	Name    string
	Version string // as the manager shows it, for rpm [epoch:]version-release
}

// Software is what a process runs. It is shared: read it only.
//
// Its text is valid UTF-8 without control characters, and short.
type Software struct {
	// Program is empty unless it is known.
	Program Program
	// Libraries are those asked for that were found, at most 32. A name can be there more than once:
	// a program can have several versions of a library, and which one a call came from is not known.
	Libraries []Library
	// Package owns the executable, ScriptPackage the script that it runs. They are empty for what came
	// in another way, for a file that was replaced since, and where it could not be told.
	Package, ScriptPackage Package
	// LibraryPackages own installed libraries, by [Library.Path]. Only [Finder.Look] asks for them, whom no
	// call waits for: each costs as much as the executable's.
	LibraryPackages map[string]Package
	// Script is the file that an interpreter runs, as far as its arguments tell.
	Script string
	// Missing says why there may be more than what was found; "" if all of it could be looked at.
	Missing string
}
