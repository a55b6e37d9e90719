package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// The table stands between these lines of a page.
const (
	begin = "<!-- kernels: from here on written by make test-kernels -->\n"
	end   = "<!-- kernels: to here -->\n"
)

// writeInto replaces the table in a page.
func writeInto(page string, o options, outcomes []outcome) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q with a table to replace", page, begin, end)
	}
	replaced := head + begin + "\n" + markdown(o, outcomes, time.Now()) + "\n" + end + tail
	if err := os.WriteFile(page, []byte(replaced), 0o644); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// markdown is the outcome of a run of every kernel.
func markdown(o options, outcomes []outcome, now time.Time) string {
	var b strings.Builder
	which := "CI's choice of tests"
	if o.all {
		which = "Every test"
	}
	fmt.Fprintf(&b, "%s, run on %s. A skipped test counts as failed.\n\n", which, now.Format(time.DateOnly))
	b.WriteString(row("machine", "kernel", "cgroups", func(s suite) string { return "`" + s.folder + "`" }))
	b.WriteString(row("---", "---", "---", func(suite) string { return "---" }))
	for _, o := range outcomes {
		b.WriteString(row(o.name, o.kernel.version, string(o.cgroups), o.cell))
	}
	return b.String()
}

func row(machine, kernel, cgroups string, cell func(suite) string) string {
	cells := []string{machine, kernel, cgroups}
	for _, s := range suites {
		cells = append(cells, cell(s))
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// cell says what became of a suite in a machine.
func (r outcome) cell(s suite) string {
	for _, o := range r.suites {
		if o.folder == s.folder {
			return o.count.String()
		}
	}
	return "not run"
}
