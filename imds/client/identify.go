package client

import (
	"slices"
	"strings"

	"github.com/imds-bridge/imds-bridge/imds"
)

// Bounds of what is looked at.
const (
	maxLibraries = 1024
	maxParents   = 4
	maxKept      = 12
)

// Identify names the client that a call comes from.
//
// A program of the table is known by its package, its build info or its name, and is then the
// client, with the SDK that it calls by beside it. Otherwise an SDK is, and one that is loaded
// counts for more than one that the User-Agent claims: who claims another, or another version, is
// not believed, and Contradiction says so. One claim is believed against a loaded SDK: that of a
// plain HTTP library in the language that runs, because no SDK sends it. Then other code of
// the program called.
//
// It never fails. It takes a few microseconds at most.
func Identify(e Evidence) Client {
	s := search{Evidence: e, agent: table.readAgent(e.UserAgent), family: family(e.Executable)}
	s.readLibraries()
	s.findProgram()
	c := s.client()
	if c.row == nil {
		return Client{Name: "unknown"}
	}
	c.Name, c.Kind = c.row.Name, c.row.Kind
	if c.sdk != nil {
		c.SDK = c.sdk.Name
	}
	return c
}

// Keep returns those libraries that Identify looks at, without their hold on the list. Of the
// hundreds that a program has they are a handful: keep them once per program, rather than all.
func Keep(libraries []Library) []Library {
	var kept []Library
	for _, l := range libraries {
		if table.module(l) != nil && len(kept) < maxKept {
			kept = append(kept, Library{l.Ecosystem, strings.Clone(l.Name), cleanVersion(l.Version)})
		}
	}
	return kept
}

// search is one Identify at work.
type search struct {
	Evidence
	agent  named
	family string

	program     *Row // by anything but the User-Agent
	by          Source
	packaged    string // version of the package
	loaded      [maxKept]loadedRow
	loadedCount int
}

type loadedRow struct {
	row     *Row
	version string
}

func (s *search) readLibraries() {
	for i, l := range s.Libraries {
		if i == maxLibraries || s.loadedCount == len(s.loaded) {
			return
		}
		row := table.module(l)
		if row == nil {
			continue
		}
		version := table.moduleVersion(row, l)
		if s.isV2() && !row.callsBySDK(version) && row.speaks(version) == No {
			continue // it did not make this call
		}
		if known := s.loadedAs(row); known == nil {
			s.loaded[s.loadedCount] = loadedRow{row, version}
			s.loadedCount++
		} else if known.version == "" {
			known.version = version
		}
	}
	if s.isV2() {
		s.dropBySDK()
	}
}

// dropBySDK leaves out what would call by an SDK, if that one did not make this call.
func (s *search) dropBySDK() {
	kept := 0
	for _, l := range s.loaded[:s.loadedCount] {
		if !l.row.callsBySDK(l.version) || s.hasSDKOf(l.row) || l.row.speaks(l.version) != No {
			s.loaded[kept] = l
			kept++
		}
	}
	s.loadedCount = kept
}

// hasSDKOf tells whether an SDK that r is on is there, in a version that is known.
func (s *search) hasSDKOf(r *Row) bool {
	for _, name := range r.On {
		if l := s.loadedAs(table.byName[name]); l != nil && l.version != "" {
			return true
		}
	}
	return false
}

// isV2 tells a call that no client makes which knows v1 alone.
func (s *search) isV2() bool { return s.Kind == imds.V2 || s.Kind == imds.TokenRequest }

func (s *search) loadedAs(row *Row) *loadedRow {
	for i := range s.loaded[:s.loadedCount] {
		if s.loaded[i].row == row {
			return &s.loaded[i]
		}
	}
	return nil
}

// findProgram looks for a program of the table, by what is surest first.
func (s *search) findProgram() {
	if r := table.packages[s.Package.Name]; r != nil {
		s.program, s.by, s.packaged = r, FromPackage, cleanVersion(s.Package.Version)
	}
	if s.family == "native" {
		if r := table.module(Library{Ecosystem: Go, Name: s.Script}); r != nil && r.isProgram() {
			s.name(r, FromLibrary)
		}
		s.name(table.executable(s.Executable), FromExecutable)
	} else {
		s.name(table.executable(s.Executable), FromExecutable)
		s.name(table.script(s.Script), FromScript)
	}
	s.nameLink()
	s.nameParent()
}

// nameLink knows Busybox by what it says, where it goes by the name of another: /bin/wget is a link to it
// in some images, and a hard one does not show.
func (s *search) nameLink() {
	said := s.agent.http.row
	if s.program == nil || said == nil || s.by != FromExecutable || said == s.program {
		return
	}
	for _, p := range said.Products {
		if p.Bare && s.program.hasProduct(p.Name) {
			s.program = said
		}
	}
}

func (r *Row) hasProduct(name string) bool {
	return slices.ContainsFunc(r.Products, func(p Product) bool { return p.Name == name })
}

func (s *search) name(r *Row, by Source) {
	switch {
	case r == nil:
	case s.program == nil:
		s.program, s.by = r, by
	case s.program == r:
		s.by |= by
	}
}

// nameParent looks whose curl it is: a script's calls are made by what it starts.
func (s *search) nameParent() {
	if s.program != nil && s.program.Kind != HTTP || s.family != "native" && s.family != "shell" {
		return
	}
	for i, p := range s.Parents {
		if i == maxParents {
			return
		}
		if r := table.script(p); r != nil && r.Family == "shell" {
			s.program, s.by, s.packaged = r, FromParent, ""
			return
		}
	}
}

// isProgram tells what runs by itself from what is a part of another program.
func (r *Row) isProgram() bool { return r.Kind == CLI || r.Kind == Agent || r.Kind == Tool }

func (s *search) client() Client {
	switch {
	case s.program != nil:
		return s.programClient()
	case s.agent.program.row != nil:
		return s.claimedProgram()
	}
	claim := s.agent.best()
	if s.isOtherCode(claim.row) {
		return s.httpClient(claim)
	}
	if c := s.loadedClient(); c.row != nil {
		return c
	}
	if claim.row != nil {
		return s.claimedClient(claim)
	}
	if r := table.runtimes[s.family]; r != nil {
		return Client{row: r, Confidence: Guess, From: FromExecutable}
	}
	return Client{}
}

// programClient is a program known by more than its User-Agent.
func (s *search) programClient() Client {
	c := Client{row: s.program, From: s.by, Version: s.packaged}
	if l := s.loadedAs(s.program); l != nil {
		c.From |= FromLibrary
		if l.version != "" {
			c.Version = l.version
		}
	}
	claim := s.agent.best()
	said := claim.row == s.program
	if said {
		c.From |= FromUserAgent
		if c.Version == "" {
			c.Version = cleanVersion(claim.version)
		}
	} else if claim.row != nil && s.belies(claim.row) {
		c.Contradiction = "User-Agent says " + claim.row.Name
	}
	switch {
	case c.From&(FromPackage|FromLibrary) != 0:
		c.Confidence = Certain
	case said:
		c.Confidence = Likely
	default:
		c.Confidence = Guess
	}
	s.addSDK(&c)
	return c
}

// belies tells whether the program would not send what names r. Agents and tools may well send what
// an SDK or an HTTP library of their language does, a curl only when it is told to.
func (s *search) belies(r *Row) bool {
	switch {
	case s.by == FromParent:
		return false
	case s.program.Kind == HTTP:
		return true
	}
	return r.isProgram() || !r.fits(s.family)
}

// claimedProgram is a program that only the User-Agent names: an unknown wrapper, or a lie.
func (s *search) claimedProgram() Client {
	m := s.agent.program
	c := Client{row: m.row, Version: cleanVersion(m.version), Confidence: Claimed, From: FromUserAgent}
	if !m.row.fits(s.family) {
		c.Contradiction = "the executable is " + s.family
	}
	s.addSDK(&c)
	if c.sdk != nil && s.loadedAs(c.sdk) != nil && c.Contradiction == "" {
		c.Confidence = Likely // the SDK that it is built on is there
	}
	return c
}

// addSDK finds the SDK by which c calls.
func (s *search) addSDK(c *Client) {
	for _, name := range c.row.On {
		row := table.byName[name]
		if l := s.loadedAs(row); l != nil {
			c.sdk, c.SDKVersion = row, l.version
			c.From |= FromLibrary
			return
		}
	}
	for _, m := range [...]mention{s.agent.sdk, s.agent.under} {
		if m.row != nil && c.row.isOn(m.row) {
			c.sdk, c.SDKVersion = m.row, cleanVersion(m.version)
			c.From |= FromUserAgent
			return
		}
	}
}

// isOtherCode tells a plain HTTP library in the language that runs, which no loaded SDK uses under its
// name. Of a binary, only its modules tell that it is one of Go.
func (s *search) isOtherCode(r *Row) bool {
	return r != nil && r.Kind == HTTP && len(r.Executables) == 0 && s.family == r.Family && !s.sent() &&
		(s.family != "native" || s.loadedCount > 0)
}

// httpClient is a plain HTTP library that the User-Agent names, in the language that runs.
func (s *search) httpClient(claim mention) Client {
	c := Client{row: claim.row, Version: cleanVersion(claim.version), Confidence: Likely, From: FromUserAgent | FromExecutable}
	if l := s.loadedAs(claim.row); l != nil {
		c.Confidence, c.From = Certain, c.From|FromLibrary
	}
	for _, l := range s.loaded[:s.loadedCount] {
		if l.row.Kind == SDK {
			c.Contradiction = l.row.Name + " is there, but does not say " + claim.row.Name
			break
		}
	}
	return c
}

// loadedClient is an SDK that the process has loaded. Of several, the one that the User-Agent
// names, or that sends such a User-Agent, is taken.
func (s *search) loadedClient() Client {
	best, sure := s.chooseLoaded()
	if best == nil {
		return Client{}
	}
	c := Client{row: best.row, Version: best.version, Confidence: Certain, From: FromLibrary}
	if !sure {
		c.Confidence = Guess
	}
	claim := s.agent.best()
	switch {
	case claim.row == best.row:
		c.From |= FromUserAgent
		switch version := cleanVersion(claim.version); {
		case c.Version == "":
			c.Version = version
		case version != "" && Compare(version, c.Version) != 0:
			c.Contradiction = "User-Agent gives another version"
		}
	case claim.row != nil && !s.alsoSends(best.row):
		c.Contradiction = "User-Agent says " + claim.row.Name
	}
	s.addSDK(&c)
	return c
}

// chooseLoaded is not sure of an SDK that is one of several, when nothing tells which one called.
func (s *search) chooseLoaded() (best *loadedRow, sure bool) {
	rank, ties := -1, 0
	for i := range s.loaded[:s.loadedCount] {
		l := &s.loaded[i]
		if l.row.Kind != SDK {
			continue
		}
		r := s.rank(l.row)
		switch {
		case best != nil && l.row.isOn(best.row) && r >= rank-1:
			best, rank = l, max(r, rank) // Boto3 rather than botocore
		case best != nil && best.row.isOn(l.row) && r <= rank+1:
		case r > rank:
			best, rank, ties = l, r, 0
		case r == rank:
			ties++
		}
	}
	return best, ties == 0
}

// rank says how well a loaded SDK goes with the User-Agent.
func (s *search) rank(r *Row) int {
	switch {
	case r == s.agent.sdk.row, r == s.agent.under.row:
		return 3
	case s.alsoSends(r):
		return 2
	case !r.fits(s.family):
		return 0
	}
	return 1
}

// sent tells whether a loaded SDK sends such a User-Agent, which is not its own.
func (s *search) sent() bool {
	for _, l := range s.loaded[:s.loadedCount] {
		if s.alsoSends(l.row) {
			return true
		}
	}
	return false
}

func (s *search) alsoSends(r *Row) bool {
	if s.UserAgent != "" && s.agent.product == "" {
		return false
	}
	for _, name := range r.Also {
		if name == s.agent.product {
			return true
		}
	}
	return false
}

// claimedClient is what the User-Agent names, with nothing loaded that says otherwise.
func (s *search) claimedClient(claim mention) Client {
	c := Client{row: claim.row, Version: cleanVersion(claim.version), Confidence: Claimed, From: FromUserAgent}
	switch {
	case s.family == "" || claim.row.Family == "":
	case claim.row.fits(s.family) && s.family != "native":
		c.Confidence, c.From = Likely, c.From|FromExecutable
	case !claim.row.fits(s.family):
		c.Contradiction = "the executable is " + s.family
	}
	if s.agent.strange != nil {
		c.Contradiction = "User-Agent names " + s.agent.strange.Name + " too"
	}
	s.addSDK(&c)
	return c
}

// fits tells whether a client can run in such an interpreter.
func (r *Row) fits(family string) bool {
	return r.Family == "" || family == "" || r.Family == family
}
