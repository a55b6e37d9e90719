package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// testBinary is a suite that is built.
type testBinary struct {
	suite
	pkg   string // import path
	file  string
	tests []string // the names of those that are built under the suite's tag alone
}

// inside is the name of the binary in a machine.
func (t testBinary) inside() string { return "/tests/" + t.folder + "/" + filepath.Base(t.file) }

// source is the directory in a machine that the tests run in.
func (t testBinary) source() string { return filepath.Dir(t.inside()) }

// build makes the static test binaries of the suites. The current directory is the top of the tree.
func build(ctx context.Context, scratch string) ([]testBinary, error) {
	built := make([]testBinary, len(suites))
	errs := make([]error, len(suites))
	var all sync.WaitGroup
	for i, s := range suites {
		all.Go(func() { built[i], errs[i] = s.build(ctx, filepath.Join(scratch, fmt.Sprint(i, ".test"))) })
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("build the tests of %s: %w", suites[i].folder, err)
		}
	}
	return built, nil
}

func (s suite) build(ctx context.Context, to string) (t testBinary, err error) {
	t = testBinary{suite: s, file: to}
	if t.pkg, t.tests, err = s.find(ctx); err != nil {
		return t, err
	}
	return t, s.goCommand(ctx, nil, "test", "-c", "-ldflags=-s -w", "-o", to)
}

// testFunction is the line on which a test begins.
var testFunction = regexp.MustCompile(`(?m)^func (Test\w+)\(\w+ \*testing\.T\)`)

// find returns the package's import path and the names of the tests that the suite's tag adds.
func (s suite) find(ctx context.Context) (pkg string, tests []string, err error) {
	type listed struct {
		ImportPath, Dir           string
		TestGoFiles, XTestGoFiles []string
	}
	var with, without listed
	if err := s.goCommand(ctx, &with, "list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"); err != nil {
		return "", nil, err
	}
	plain := s
	plain.tag = ""
	if err := plain.goCommand(ctx, &without, "list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"); err != nil {
		return "", nil, err
	}
	known := append(without.TestGoFiles, without.XTestGoFiles...)
	for _, file := range append(with.TestGoFiles, with.XTestGoFiles...) {
		if slices.Contains(known, file) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(with.Dir, file))
		if err != nil {
			return "", nil, err
		}
		for _, m := range testFunction.FindAllSubmatch(text, -1) {
			tests = append(tests, string(m[1]))
		}
	}
	if len(tests) == 0 {
		return "", nil, fmt.Errorf("no tests with the build tag %s", s.tag)
	}
	return with.ImportPath, tests, nil
}

// goCommand runs the go tool on the suite's package, and decodes what it prints.
func (s suite) goCommand(ctx context.Context, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append(args, "-tags="+s.tag, "./"+s.folder)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, stderr.String())
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(out, into)
}

// due are the tests of a binary that a machine with such cgroups is to run.
func (t testBinary) due(o options, cgroups layout) (tests []string, err error) {
	chosen := t.ci
	if cgroups != unified {
		chosen = t.layouts
	}
	if o.all {
		chosen = []string{"Test"}
	}
	for _, name := range chosen {
		matching := slices.DeleteFunc(slices.Clone(t.tests), func(test string) bool { return !strings.HasPrefix(test, name) })
		if len(matching) == 0 {
			return nil, fmt.Errorf("%s has no test %s…, which the table names", t.folder, name)
		}
		tests = append(tests, matching...)
	}
	pattern, err := regexp.Compile(o.test)
	if err != nil {
		return nil, fmt.Errorf("-run: %w", err)
	}
	return slices.DeleteFunc(tests, func(test string) bool { return !pattern.MatchString(test) }), nil
}
