package client

// Support says from when on a client speaks IMDSv2.
type Support uint8

const (
	// Unknown: no public source says.
	Unknown Support = iota
	// Always: since its first release.
	Always
	// Never: no release does.
	Never
	// Since: from Row.First on.
	Since
	// WithSetting: from Row.First on if Row.Setting is set, and from Row.Default on without it.
	WithSetting
	// ByLibrary: as the SDK does that it is built with.
	ByLibrary
	// Plain: an HTTP client, which sends what it is told. The program that uses it speaks v1 or v2.
	Plain
)

// Product is a product token of a User-Agent: "name" of "name/version".
type Product struct {
	Name string // in lower case
	// Major is the first number of the version, where rows share a name.
	Major string
	// NoVersion: what follows the slash is not the client's version.
	NoVersion bool
	// Bare: nothing follows the name, where rows share it. Such a row stands before the others.
	Bare bool
}

// Module is a library by which a client is recognised.
type Module struct {
	Ecosystem, Name string
	// Major is the first number of the version, where rows share a name.
	Major string
	// NoVersion: the library is versioned apart from the client.
	NoVersion bool
}

// Row is what is known of one client, with the place where it is known from.
type Row struct {
	// Name is stable; metrics and rules use it.
	Name  string
	Kind  Kind
	Title string

	// How it is recognised. Products are its own; Also are products that others send too, and
	// say little unless something else points to the client ("" is no User-Agent at all).
	Products    []Product
	Also        []string
	Executables []string // base names, or the end of a path
	Scripts     []string // base names, module names or main classes
	Packages    []string // of a distribution
	Modules     []Module
	// Family is the interpreter that it runs in, "native" for none, "" where either may be.
	Family string
	// On are the rows of SDKs that it is built on.
	On []string
	// CallsBySDK is the first number of those versions that leave IMDS to the SDK that they are on: where
	// its version is known, that decides.
	CallsBySDK string

	Support Support
	First   string
	// AtMost: First is the earliest version that a source vouches for; earlier ones may do.
	AtMost bool
	// Loose: versions within First's series (3.3) cannot be compared with it.
	Loose   bool
	Default string
	Setting string
	// Relays: what it asks for is what others asked it.
	Relays bool
	// NoFallback: AWS_EC2_METADATA_V1_DISABLED=true keeps it from falling back to v1, in releases from
	// 2024 on. SDKs learnt it from October 2023 (Go) to January 2024 (Java 2.x).
	NoFallback bool

	// Fix is one line, where the support does not say it all. Replace: it names another program.
	Fix     string
	Replace bool
	Link    string // the vendor's page
	Source  string // where Support and First are known from
	Note    string
	Example string // a User-Agent as seen
}

// speaks answers for one version; "" is one that is not known.
func (r *Row) speaks(version string) Answer {
	switch r.Support {
	case Always:
		return Yes
	case Never:
		return No
	case Since:
		return r.since(version, No)
	case WithSetting:
		if version != "" && Compare(version, r.Default) >= 0 {
			return Yes
		}
		if r.since(version, No) == No {
			return No
		}
		return IfAllowed
	}
	return Perhaps
}

func (r *Row) since(version string, before Answer) Answer {
	switch {
	case version == "" || r.First == "":
		return Perhaps
	case r.Loose && series(version) == series(r.First):
		return Perhaps
	case Compare(version, r.First) >= 0:
		return Yes
	case r.AtMost:
		return Perhaps
	}
	return before
}

// Rows is the table, in the order of docs/clients.md. The rows are shared: read them only.
func Rows() []*Row { return table.rows }

// Lookup finds a row by its name.
func Lookup(name string) (*Row, bool) {
	r, found := table.byName[name]
	return r, found
}
