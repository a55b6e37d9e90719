package client

import "strings"

// table holds the rows, and finds them by what they are recognised by.
var table = newIndex(sdks, agents, tools, plain, runtimes)

type index struct {
	rows        []*Row
	byName      map[string]*Row
	products    map[string][]productRow
	also        map[string][]*Row
	executables map[string][]pathRow
	scripts     map[string][]pathRow
	packages    map[string]*Row
	modules     map[Module][]moduleRow // by ecosystem and name alone
	runtimes    map[string]*Row
}

type (
	productRow struct {
		Product
		row *Row
	}
	pathRow struct {
		end string // of the path, "" when the base name does
		row *Row
	}
	moduleRow struct {
		Module
		row *Row
	}
)

func newIndex(groups ...[]Row) *index {
	x := &index{
		byName: map[string]*Row{}, products: map[string][]productRow{}, also: map[string][]*Row{},
		executables: map[string][]pathRow{}, scripts: map[string][]pathRow{}, packages: map[string]*Row{},
		modules: map[Module][]moduleRow{}, runtimes: map[string]*Row{},
	}
	for _, rows := range groups {
		for i := range rows {
			x.add(&rows[i])
		}
	}
	return x
}

func (x *index) add(r *Row) {
	x.rows = append(x.rows, r)
	x.byName[r.Name] = r
	for _, p := range r.Products {
		x.products[p.Name] = append(x.products[p.Name], productRow{p, r})
	}
	for _, name := range r.Also {
		x.also[name] = append(x.also[name], r)
	}
	addPaths(x.executables, r.Executables, r)
	addPaths(x.scripts, r.Scripts, r)
	for _, p := range r.Packages {
		x.packages[p] = r
	}
	for _, m := range r.Modules {
		key := moduleKey(m.Ecosystem, m.Name)
		x.modules[key] = append(x.modules[key], moduleRow{m, r})
	}
	if r.Kind == Runtime {
		x.runtimes[r.Family] = r
	}
}

func addPaths(to map[string][]pathRow, paths []string, r *Row) {
	for _, p := range paths {
		name, row := base(p), pathRow{row: r}
		if strings.Contains(p, "/") {
			row.end = "/" + p
			to[name] = append([]pathRow{row}, to[name]...) // the longer one first
			continue
		}
		to[name] = append(to[name], row)
	}
}

// pathOf finds the first of rows that a path ends as.
func pathOf(rows []pathRow, path string) *Row {
	for _, r := range rows {
		if strings.HasSuffix(path, r.end) {
			return r.row
		}
	}
	return nil
}

// moduleKey is what libraries are looked up by. Python and NuGet do not heed case, and a Go module is
// the same with a major version behind its path.
func moduleKey(ecosystem, name string) Module {
	switch ecosystem {
	case PyPI, NuGet:
		name = strings.ToLower(name)
	case Go:
		if i := strings.LastIndex(name, "/v"); i > 0 && isDigits(name[i+2:]) {
			name = name[:i]
		}
	}
	return Module{Ecosystem: ecosystem, Name: name}
}

// IsTool tells of an executable whether it is one that fetches what it is told to, whoever calls it, as curl is.
func IsTool(executable string) bool {
	r := table.executable(executable)
	return r != nil && r.Support == Plain
}

// executable finds the row of a program by its path. Terraform's plugins have their version behind
// their name.
func (x *index) executable(path string) *Row {
	name := base(path)
	if name == "" {
		return nil
	}
	rows := x.executables[name]
	if plugin, _, found := strings.Cut(name, "_v"); rows == nil && found {
		rows = x.executables[plugin]
	}
	return pathOf(rows, path)
}

// script finds the row of what an interpreter runs: a path, a module or a main class.
func (x *index) script(name string) *Row {
	if b := base(name); b != "" {
		return pathOf(x.scripts[b], name)
	}
	return nil
}

// module finds the rows of a library. Of Maven both group:artifact and artifact are tried.
func (x *index) module(l Library) *Row {
	if len(l.Name) > 256 {
		return nil
	}
	name := l.Name
	for {
		for _, m := range x.modules[moduleKey(l.Ecosystem, name)] {
			if m.Major == "" || m.Major == major(l.Version) || l.Version == "" {
				return m.row
			}
		}
		_, artifact, found := strings.Cut(name, ":")
		if l.Ecosystem != Maven || !found {
			return nil
		}
		name = artifact
	}
}

// moduleVersion is l's version if it tells that of the row r.
func (x *index) moduleVersion(r *Row, l Library) string {
	for _, m := range r.Modules {
		if m.NoVersion && moduleKey(m.Ecosystem, m.Name) == moduleKey(l.Ecosystem, l.Name) {
			return ""
		}
	}
	return cleanVersion(l.Version)
}

// major is the first number of a version.
func major(version string) string {
	first, _ := number(numbers(version))
	return first
}
