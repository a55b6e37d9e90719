package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var ownName = regexp.MustCompile(`"(imds\.[a-z_.]+)"`)

// TestTelemetryReference fails when docs/telemetry.md and the names in the code differ.
func TestTelemetryReference(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/telemetry.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile("`(imds\\.[a-z_.]+)`").FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, m[1])
	}
	used := namesInCode(t, "../../proxy", "../../report", "../../redirect", "../../telemetry", ".")
	for _, name := range used {
		if !slices.Contains(documented, name) {
			t.Errorf("%s is not in docs/telemetry.md", name)
		}
	}
	for _, name := range documented {
		if !slices.Contains(used, name) {
			t.Errorf("docs/telemetry.md lists %s, which the code does not use", name)
		}
	}
}

func namesInCode(t *testing.T, folders ...string) (names []string) {
	t.Helper()
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, m := range ownName.FindAllStringSubmatch(string(source), -1) {
				names = append(names, m[1])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(names) == 0 {
		t.Fatal("no names found")
	}
	return names
}

// TestEveryVerbHasHelp looks at what --help says.
func TestEveryVerbHasHelp(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"", "run", "demo", "doctor", "explain", "redirect", "redirect install", "redirect remove", "ready", "simulate", "cleanup", "version"} {
		var out, errs strings.Builder
		args := append(strings.Fields(verb), "--help")
		if code := run(t.Context(), args, &out, &errs); code != exitOK {
			t.Errorf("%v: exit code %d", args, code)
		}
		if !strings.Contains(out.String(), "imds-bridge "+verb) {
			t.Errorf("%v says %q", args, out.String())
		}
	}
}

func TestBadCallsExitWithUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"run", "--mode", "upgrad"},
		{"run", "--no-such-flag"},
		{"run", "--config", "/no/such/file.yaml"},
		{"simulate", "--http-tokens", "perhaps"},
		{"no-such-verb"},
	} {
		var out, errs strings.Builder
		if code := run(t.Context(), args, &out, &errs); code != exitUsage {
			t.Errorf("%v: exit code %d (%s)", args, code, errs.String())
		}
		if errs.Len() == 0 {
			t.Errorf("%v says nothing", args)
		}
	}
}
