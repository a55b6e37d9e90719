package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/doctor"
)

func TestDoctorRefusesWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"doctor", "--output", "xml"},
		{"doctor", "--redirector", "nft"},
		{"doctor", "--redirect.listen", "10.0.0.1:80"},
		{"doctor", "now"},
	} {
		var out, errs strings.Builder
		if code := run(t.Context(), args, &out, &errs); code != exitUsage || out.Len() > 0 || errs.Len() == 0 {
			t.Errorf("%v: exit code %d, %q on standard output, %q on standard error", args, code, out.String(), errs.String())
		}
	}
}

// What run would refuse is refused before anything is looked at or printed.
func TestOwnersThatRunRefuses(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.csv")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{
		"--attribution.owner=tema":              "attribution.owner: no source \"tema\"",
		"--attribution.owner_file=/nowhere.csv": "attribution.owner_file: read the owners' file: open /nowhere.csv",
		"--attribution.owner_file=" + empty:     "no entry",
	} {
		for _, verb := range [][]string{{"doctor", flag}, {"run", "--print-config", flag}} {
			var out, errs strings.Builder
			if code := run(t.Context(), verb, &out, &errs); code != exitUsage || out.Len() > 0 || !strings.Contains(errs.String(), want) {
				t.Errorf("%v: exit code %d, %q on standard output, %q on standard error", verb, code, out.String(), errs.String())
			}
		}
	}
}

// Broken off, there is no report, and no exit code that a verdict has.
func TestDoctorBrokenOff(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs strings.Builder
	if code := run(ctx, []string{"doctor"}, &out, &errs); code != exitFailed || out.Len() > 0 || !strings.Contains(errs.String(), "broken off") {
		t.Errorf("exit code %d, %q, %q", code, out.String(), errs.String())
	}
}

func TestVerdictsHaveExitCodes(t *testing.T) {
	t.Parallel()
	for verdict, want := range map[doctor.Verdict]int{doctor.Limited: exitFailed, doctor.Useless: exitUsage} {
		if got := (unfit{verdict}).exitCode(); got != want {
			t.Errorf("%s: exit code %d, want %d", verdict, got, want)
		}
	}
}
