package client

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Reference is docs/clients.md: every row of the table, with its source.
func Reference() []byte {
	var b bytes.Buffer
	b.WriteString(referenceHead)
	for _, section := range []struct {
		title string
		rows  []Row
	}{
		{"SDKs and command lines", sdks},
		{"Agents", agents},
		{"Tools", tools},
		{"HTTP clients", plain},
		{"Interpreters", runtimes},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| Client | `imds.client.name` | Kind | Recognised by | Speaks IMDSv2 | Notes | Known from |\n|---|---|---|---|---|---|---|\n", section.title)
		for i := range section.rows {
			r := &section.rows[i]
			fmt.Fprintf(&b, "| [%s](%s) | `%s` | %s | %s | %s | %s | [source](%s) |\n",
				r.Title, r.Link, r.Name, r.Kind, r.recognisedBy(), r.supportText(), r.notes(), r.Source)
		}
	}
	return b.Bytes()
}

func (r *Row) recognisedBy() string {
	var parts []string
	add := func(what string, names []string) {
		if len(names) > 0 {
			parts = append(parts, what+" `"+strings.Join(names, "`, `")+"`")
		}
	}
	var products, modules []string
	for _, p := range r.Products {
		products = append(products, p.Name+majorText("/", p.Major))
	}
	for _, m := range r.Modules {
		modules = append(modules, m.Ecosystem+":"+m.Name+majorText("@", m.Major))
	}
	add("User-Agent", products)
	if slices.ContainsFunc(r.Products, func(p Product) bool { return p.Bare }) {
		parts[0] += " without a version"
	}
	add("executable", r.Executables)
	add("script", r.Scripts)
	add("package", r.Packages)
	add("library", modules)
	if r.Kind == Runtime {
		parts = append(parts, "executable")
	}
	return strings.Join(parts, "; ")
}

func majorText(sign, major string) string {
	if major == "" {
		return ""
	}
	return sign + major
}

func (r *Row) supportText() string {
	switch r.Support {
	case Always:
		return "always"
	case Never:
		return "never"
	case Since:
		return "from " + r.firstText() + r.sdkText()
	case WithSetting:
		return fmt.Sprintf("from %s with `%s`, from %s without", r.firstText(), r.Setting, r.Default)
	case ByLibrary:
		return "as its AWS SDK does"
	case Plain:
		return "as its user does"
	}
	return "unknown"
}

// sdkText says of which versions the SDK's decides.
func (r *Row) sdkText() string {
	if r.CallsBySDK == "" {
		return ""
	}
	return "; of " + r.CallsBySDK + ".x the version of `" + strings.Join(r.On, "`, `") + "` decides, where it is known"
}

func (r *Row) firstText() string {
	if r.AtMost {
		return r.First + " or earlier"
	}
	return r.First
}

func (r *Row) notes() string {
	var parts []string
	for _, text := range []string{r.Fix, r.Note} {
		if text == "" {
			continue
		}
		text = strings.ToUpper(text[:1]) + text[1:]
		parts = append(parts, strings.TrimSuffix(text, ".")+".")
	}
	return strings.Join(parts, " ")
}

const referenceHead = `<!-- Made from the package imds/client by "go generate ./imds/client". Do not edit. -->

# Clients

The clients of the metadata service that the bridge knows by name, the first version of each that speaks IMDSv2,
and where that is known from. What no public source says is shown as unknown.

- **From** a version: earlier ones know IMDSv1 alone. **Or earlier**: the source vouches for that version and says
  nothing of those before it.
- **As its AWS SDK does**: the version of the SDK that is loaded decides, where it can be found.
- **As its user does**: a client of HTTP in general, which sends what it is told to.
- How sure the bridge is: ` + "`certain`" + ` when a library is loaded or the package manager owns the program, ` + "`likely`" + ` when the
  User-Agent fits the executable, ` + "`claimed`" + ` by the User-Agent alone, ` + "`guess`" + ` by a name or interpreter alone.
- SDKs with a minimum from AWS's own list fall back to IMDSv1 when they get no token.
  ` + "`AWS_EC2_METADATA_V1_DISABLED=true`" + ` [keeps them from it](` + settings + `)
  in releases from 2024 on.
`
