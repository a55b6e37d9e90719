package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOutcomeIsThatOfGoTest(t *testing.T) {
	t.Parallel()
	const (
		pass = "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.10s)\n\x16=== NAME  \n"
		fail = "\x16=== RUN   TestA\n\x16=== RUN   TestA/sub\n    a_test.go:1: bad\n\x16--- FAIL: TestA/sub (0.10s)\n" +
			"\x16=== NAME  TestA\n\x16--- FAIL: TestA (0.10s)\n\x16=== NAME  \n"
		skip = "\x16=== RUN   TestA\n    a_test.go:1: not here\n\x16--- SKIP: TestA (0.00s)\n\x16=== NAME  \n"
		cut  = "\x16=== RUN   TestA\n"
	)
	good, bad := &ended{}, &ended{Exit: "exit status 1"}
	for _, tt := range []struct {
		name, output string
		ended        *ended
		want         count
		last         string
	}{
		{"passed", pass + "\x16PASS\n", good, count{passed: 1}, "pass"},
		{"failed, with a subtest", fail + "\x16FAIL\n", bad, count{failed: 2}, "fail"},
		{"skipped", skip + "\x16PASS\n", good, count{skipped: 1}, "pass"},
		{"passed, and left something behind", pass + "\x16PASS\nleaked\n", bad, count{passed: 1, failed: 1}, "fail"},
		{"cut off in the middle", cut, nil, count{failed: 1}, "fail"},
		{"cut off at the end", pass, nil, count{passed: 1, failed: 1}, "fail"},
		{"never begun", "", nil, count{failed: 1}, "fail"},
		{"begun without the test that is due", "testing: warning: no tests to run\nPASS\n", good, count{failed: 1}, "pass"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := suiteOutcome{testBinary: testBinary{pkg: "example.com/a"}, due: []string{"TestA"}, output: []byte(tt.output), ended: tt.ended}
			if err := s.judge(); err != nil {
				t.Fatal(err)
			}
			if s.count != tt.want {
				t.Errorf("counted %+v, want %+v", s.count, tt.want)
			}
			if last := s.events[len(s.events)-1]; last.Test != "" || last.Action != tt.last || last.Package != "example.com/a" {
				t.Errorf("the last event is %+v", last)
			}
			events := make(map[string]int)
			for _, e := range s.events {
				if e.Test != "" {
					events[e.Action]++
				}
			}
			lost := tt.want.failed - events["fail"] // that of the package as a whole
			if events["pass"] != tt.want.passed || events["skip"] != tt.want.skipped || lost != 0 && events["fail"] != 0 {
				t.Errorf("events %v", events)
			}
		})
	}
}

func TestTestsThatAreDueExist(t *testing.T) {
	t.Parallel()
	b := testBinary{suite: suite{folder: "x", ci: []string{"TestA"}, layouts: []string{"TestB"}}, tests: []string{"TestA1", "TestB", "TestA2"}}
	for _, tt := range []struct {
		cgroups layout
		options options
		want    string
	}{
		{unified, options{}, "[TestA1 TestA2]"},
		{legacy, options{}, "[TestB]"},
		{legacy, options{all: true}, "[TestA1 TestB TestA2]"},
		{unified, options{all: true, test: "2$"}, "[TestA2]"},
	} {
		got, err := b.due(tt.options, tt.cgroups)
		if err != nil || fmt.Sprint(got) != tt.want {
			t.Errorf("%s, %+v: %v, %v; want %s", tt.cgroups, tt.options, got, err, tt.want)
		}
	}
	b.ci = []string{"TestRenamed"}
	if _, err := b.due(options{}, unified); err == nil || !strings.Contains(err.Error(), "TestRenamed") {
		t.Errorf("a name in the table that is no test's: %v", err)
	}
}

// The kernel reads each header at a multiple of 4 bytes, and wants a directory before what is in it.
func TestArchiveIsAsTheKernelReadsIt(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "a.cpio")
	a, err := newArchive(file)
	if err != nil {
		t.Fatal(err)
	}
	a.text("/etc/deep/passwd", []byte("root"))
	a.link("/etc/link", "deep")
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for rest := text; len(rest) > 0; {
		var mode, size, length int
		field := func(n int, into *int) {
			if _, err := fmt.Sscanf(string(rest[6+8*n:14+8*n]), "%08x", into); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(rest, []byte("070701")) {
			t.Fatalf("no header at %d", len(text)-len(rest))
		}
		field(1, &mode)
		field(6, &size)
		field(11, &length)
		content := (110 + length + 3) / 4 * 4
		names = append(names, fmt.Sprintf("%o %s %q", mode, rest[110:110+length-1], rest[content:content+size]))
		rest = rest[content+(size+3)/4*4:]
	}
	want := []string{
		`40755 etc ""`, `40755 etc/deep ""`, `100644 etc/deep/passwd "root"`, `120777 etc/link "deep"`, `0 TRAILER!!! ""`,
	}
	if !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}

func TestKernelsOfSeveralPackagesAreFollowed(t *testing.T) {
	t.Parallel()
	for depends, want := range map[string]string{
		"linux-image-5.10.0-46-cloud-amd64 (= 5.10.262-1)":                                                      "[linux-image-5.10.0-46-cloud-amd64 5.10.262-1]",
		"linux-base-cloud-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)":                "[linux-base-cloud-amd64 7.2.13-1 linux-image-7.2.13+deb14-cloud-amd64 7.2.13-1]",
		"dracut | initramfs-tools (>= 0.120+deb8u2), kmod, linux-modules-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)": "[linux-modules-7.2.13+deb14-cloud-amd64 7.2.13-1]",
	} {
		var got []string
		for _, d := range dependency.FindAllStringSubmatch(depends, -1) {
			got = append(got, d[1:]...)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %v, want %s", depends, got, want)
		}
	}
}

func TestPageTellsOfEveryMachineAndSuite(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/kernels.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), begin)
	table, _, ok := strings.Cut(rest, end)
	if !ok {
		t.Fatal("the page has no table")
	}
	// As one that was made of machines in which nothing ran.
	var none []outcome
	for _, m := range machines {
		none = append(none, outcome{machine: m})
	}
	got, want := cells(table), cells(markdown(options{}, none, time.Now()))
	if len(got) != len(want) {
		t.Fatalf("the page has %d rows, want %d: make test-kernels KERNELS='-all -page docs/kernels.md'", len(got), len(want))
	}
	for i, row := range got {
		if len(row) != len(want[i]) || row[0] != want[i][0] || i == 0 && !slices.Equal(row, want[i]) {
			t.Fatalf("row %q, want one of %q", row, want[i])
		}
		if i < 2 {
			continue
		}
		if row[1] == "" || row[2] != want[i][2] {
			t.Errorf("%s: kernel %q, cgroups %q", row[0], row[1], row[2])
		}
		for _, cell := range row[3:] {
			if !regexp.MustCompile(`^([1-9][0-9]* passed|not run)$`).MatchString(cell) {
				t.Errorf("%s: %q", row[0], cell)
			}
		}
	}
}

// cells are those of a table in Markdown.
func cells(table string) (rows [][]string) {
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "|") {
			rows = append(rows, strings.Split(strings.Trim(line, "| \n"), " | "))
		}
	}
	return rows
}

// The redirectors' tests run in every machine, whatever is chosen for CI.
func TestEveryMachineTriesEveryRedirector(t *testing.T) {
	t.Parallel()
	for _, s := range suites {
		redirector := slices.Contains([]string{"redirect/hook", "redirect/watch", "redirect/iptables"}, s.folder)
		if redirector && (len(s.ci) == 0 || len(s.layouts) == 0) {
			t.Errorf("%s: CI runs %q, and %q with other layouts of cgroups", s.folder, s.ci, s.layouts)
		}
	}
}

func TestKernelThatIsNotToBeHadIsNamedWithARemedy(t *testing.T) {
	t.Parallel()
	err := unavailable("/cache", "bullseye", errors.New("404 Not Found"))
	for _, want := range []string{"bullseye", "404 Not Found", "/cache/bullseye", "table.go"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}
