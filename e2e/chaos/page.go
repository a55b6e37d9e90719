package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The table stands between these lines of a page.
const (
	begin = "<!-- chaos: from here on written by make test-chaos -->\n"
	end   = "<!-- chaos: to here -->\n"
)

// writeInto replaces the table in a page.
func writeInto(page, table string) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: no lines %q and %q with a table to replace", page, begin, end)
	}
	if err := os.WriteFile(page, []byte(head+begin+"\n"+table+"\n"+end+tail), 0o644); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// markdown is the outcomes for people. The columns line up in a terminal too.
func markdown(outcomes []outcome, start time.Time) (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("find the kernel's version: %w", err)
	}
	head := fmt.Sprintf("Made on %s in %s: %d cores, Linux %s.\n\n", start.UTC().Format(time.DateOnly),
		time.Since(start).Round(time.Second), runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]))
	slices.SortStableFunc(outcomes, func(a, b outcome) int { return strings.Compare(a.Fault, b.Fault) })
	rows := [][]string{{"fault", "times", "calls v1", "v2", "failed v1", "v2", "straight v1", "straight after", "back after", "slowest"}}
	for _, o := range outcomes {
		rows = append(rows, []string{
			o.Fault, fmt.Sprint(o.Times), fmt.Sprint(o.V1), fmt.Sprint(o.V2), fmt.Sprint(o.FailedV1), fmt.Sprint(o.FailedV2),
			fmt.Sprint(o.Past), milliseconds(o.Straight), milliseconds(o.Back), milliseconds(o.Slowest),
		})
	}
	return head + lineUp(rows), nil
}

// milliseconds shows a time; a negative one is none.
func milliseconds(d time.Duration) string {
	if d < 0 {
		return ""
	}
	return fmt.Sprint(d.Round(time.Millisecond).Milliseconds(), " ms")
}

func lineUp(rows [][]string) string {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for n, row := range rows {
		b.WriteString("|")
		for i, cell := range row {
			b.WriteString(" " + cell + strings.Repeat(" ", width[i]-len([]rune(cell))) + " |")
		}
		b.WriteString("\n")
		if n > 0 {
			continue
		}
		for _, w := range width {
			b.WriteString("|" + strings.Repeat("-", w+2))
		}
		b.WriteString("|\n")
	}
	return b.String()
}
