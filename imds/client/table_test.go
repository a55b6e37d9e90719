package client

import (
	"bytes"
	"flag"
	"net/url"
	"os"
	"regexp"
	"testing"
)

var update = flag.Bool("update", false, "write docs/clients.md anew")

func TestReference(t *testing.T) {
	const file = "../../docs/clients.md"
	if *update {
		if err := os.WriteFile(file, Reference(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Reference()) {
		t.Errorf("%s is stale: run go generate ./imds/client", file)
	}
}

func TestRowsAreWhole(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	goodName := regexp.MustCompile(`^[a-z][a-z0-9-]{1,39}$`)
	goodText := regexp.MustCompile("^[^|\n]*$") // it stands in a table
	for _, r := range Rows() {
		if !goodName.MatchString(r.Name) || names[r.Name] {
			t.Errorf("name %q is not plain or not unique", r.Name)
		}
		names[r.Name] = true
		for what, page := range map[string]string{"link": r.Link, "source": r.Source} {
			if u, err := url.Parse(page); err != nil || u.Scheme != "https" || u.Host == "" {
				t.Errorf("%s: %s %q is no page", r.Name, what, page)
			}
		}
		if r.Title == "" || r.Kind == KindUnknown || !goodText.MatchString(r.Title+r.Fix+r.Note+r.Setting) {
			t.Errorf("%s: title, kind or text", r.Name)
		}
		if len(r.Products)+len(r.Executables)+len(r.Scripts)+len(r.Packages)+len(r.Modules) == 0 && r.Kind != Runtime {
			t.Errorf("%s is recognised by nothing", r.Name)
		}
		if (r.Support == Since || r.Support == WithSetting) != IsVersion(r.First) || (r.Support == WithSetting) != IsVersion(r.Default) {
			t.Errorf("%s: first version %q, default %q", r.Name, r.First, r.Default)
		}
		if r.Support == ByLibrary && len(r.On) == 0 || r.Support == Never && r.Fix == "" || r.Support == Unknown && r.Fix == "" || r.Replace && r.Fix == "" {
			t.Errorf("%s: nothing to advise", r.Name)
		}
		for _, sdk := range r.On {
			if other, found := Lookup(sdk); !found || other.Kind != SDK {
				t.Errorf("%s is on %q, which is no SDK of the table", r.Name, sdk)
			}
		}
	}
	if len(names) < 60 {
		t.Errorf("%d rows", len(names))
	}
}

// Each way to recognise a client is taken on its own.
func TestRowsAreRecognised(t *testing.T) {
	t.Parallel()
	for _, r := range Rows() {
		for _, e := range examples(r) {
			if got := Identify(e); got.Name != r.Name || got.Kind != r.Kind {
				t.Errorf("%s is taken for %s by %+v", r.Name, got.Name, e)
			}
		}
	}
}

func examples(r *Row) []Evidence {
	var list []Evidence
	if r.Example != "" {
		list = append(list, Evidence{UserAgent: r.Example})
	}
	for _, p := range r.Products {
		if p.Bare {
			list = append(list, Evidence{UserAgent: p.Name})
			continue
		}
		list = append(list, Evidence{UserAgent: p.Name + "/" + p.Major + ".99"})
	}
	for _, e := range r.Executables {
		list = append(list, Evidence{Executable: "/opt/x/" + e})
	}
	for _, s := range r.Scripts {
		list = append(list, Evidence{Executable: map[string]string{
			"python": "/usr/bin/python3.11", "ruby": "/usr/bin/ruby3.1", "java": "/usr/lib/jvm/bin/java", "shell": "/bin/bash",
		}[r.Family], Script: "/opt/x/" + s})
	}
	for _, p := range r.Packages {
		list = append(list, Evidence{Executable: "/opt/x/unknown", Package: Package{Name: p, Version: "1:2.3-1"}})
	}
	for _, m := range r.Modules {
		if r.Kind == SDK {
			list = append(list, Evidence{Libraries: []Library{{m.Ecosystem, m.Name, m.Major + ".99"}}})
		} else if m.Ecosystem == Go {
			list = append(list, Evidence{Executable: "/x/unknown", Script: m.Name})
		}
	}
	if r.Kind == Runtime {
		list = append(list, Evidence{Executable: map[string]string{
			"python": "/usr/bin/python3.11", "node": "/usr/bin/node", "java": "/usr/lib/jvm/bin/java", "ruby": "ruby3.1",
			"php": "/usr/bin/php8.2", "perl": "/usr/bin/perl", "dotnet": "/usr/bin/dotnet", "shell": "/bin/dash",
		}[r.Family]})
	}
	return list
}
