package main

import (
	"fmt"
	"os"
	"strings"
)

// The table stands between these lines of a page.
const (
	begin = "<!-- bench: from here on written by make bench -->\n"
	end   = "<!-- bench: to here -->\n"
)

// writeInto replaces the table in a page.
func (r *result) writeInto(page string) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	replaced, err := replace(string(text), r.markdown())
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	if err := os.WriteFile(page, []byte(replaced), 0o644); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

func replace(page, table string) (string, error) {
	head, rest, ok := strings.Cut(page, begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", fmt.Errorf("no lines %q and %q with a table to replace", begin, end)
	}
	return head + begin + "\n" + table + "\n" + end + tail, nil
}

// markdown is the result for people. The columns line up in a terminal too.
func (r *result) markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "Measured on %s in %s: %s, %d cores, Linux %s, load average %s at the start.\n%s.\n\n",
		r.Date, r.Took, m.CPU, m.Cores, m.Kernel, m.Load, strings.Join(m.Programs, ", "))
	b.WriteString(r.rows().text())
	c := r.Comparison
	fmt.Fprintf(&b, "\nThe bridges served %d calls, wrote %d log lines, and lost %d spans and lines.\n", c.Calls, c.Lines, c.Dropped)
	b.WriteString("Wrong: calls of all rounds that got another answer than they should. Noise: the largest p50 of a round divided by the smallest.\n\n")
	for _, f := range c.Failures {
		fmt.Fprintf(&b, "FAILED, and not in the medians: %s\n\n", f)
	}
	b.WriteString(r.others().text())
	b.WriteString("\n")
	b.WriteString(r.reached().text())
	return b.String()
}

func (r *result) rows() table {
	t := table{{"calls at once", "", "p50 µs", "p90 µs", "p99 µs", "added p50 µs", "by nginx's", "calls/s", "CPU/call µs", "by nginx's", "wrong", "noise"}}
	for _, w := range r.Comparison.Rows {
		added, addedRatio, cpu, cpuRatio := "", "", "", ""
		if !r.measured(w.Proxy, w.Connections) {
			t = append(t, []string{fmt.Sprint(w.Connections), w.Proxy, "failed", "", "", "", "", "", "", "", fmt.Sprint(w.Wrong), ""})
			continue
		}
		if w.Direct != "" {
			added, cpu = number(microseconds(r.added(w.Proxy, w.Connections))), number(microseconds(w.CPU))
		}
		if w.Direct == hostDirect { // as nginx is
			addedRatio = precise(r.addedRatio(w.Proxy, w.Connections))
			cpuRatio = precise(r.cpuRatio(w.Proxy, w.Connections))
		}
		t = append(t, []string{
			fmt.Sprint(w.Connections), w.Proxy,
			number(microseconds(w.P50)), number(microseconds(w.P90)), number(microseconds(w.P99)), added, addedRatio,
			number(w.Rate), cpu, cpuRatio, fmt.Sprint(w.Wrong), fmt.Sprintf("%.2f", w.Spread),
		})
	}
	return t
}

func (r *result) others() table {
	t := table{{"figure", "value"}}
	add := func(name, format string, args ...any) { t = append(t, []string{name, fmt.Sprintf(format, args...)}) }
	for _, m := range r.Comparison.Memory {
		if m.AtRest > 0 {
			add("resident set of "+m.Proxy, "%.1f MiB at rest, %.1f MiB after load", float64(m.AtRest)/(1<<20), float64(m.AfterLoad)/(1<<20))
		}
	}
	h := r.Hook
	add("TCP connect() to another address", "%d ns, with the hook %+d ns", h.TCP.Plain, h.TCP.Added)
	add("UDP connect() to another address", "%d ns, with the hook %+d ns", h.UDP.Plain, h.UDP.Added)
	for _, p := range h.Programs {
		add("program at "+p.Name, "%.1f runs a TCP connect(), %d ns each by the kernel's own count", p.Runs, p.Run)
	}
	w := r.Watch
	add("UDP packet to another address", "%d ns to send and receive, with the watch %+d ns: %.3f times as long", w.Packet.Plain, w.Packet.Added, w.Packet.ratio())
	for _, p := range w.Programs {
		add("watch alone, program at "+p.Name, "%.1f runs a UDP packet, %d ns each by the kernel's own count", p.Runs, p.Run)
	}
	add("calls that are only watched", "%d of %d at %.0f a second seen, %d unnamed, %d events lost", w.Seen, w.Made, w.Rate, w.Unnamed, w.Lost)
	s := r.Starting
	add("start to ready", "%.0f ms to /readyz, %.0f ms to sd_notify; median of %d", milliseconds(s.Ready), milliseconds(s.Notice), s.Starts)
	i := r.Identity
	add("first call of a new caller", "%.0f µs for the first %d callers, %.0f µs for the last of %d", microseconds(i.NewFirst), window, microseconds(i.NewLast), i.Callers)
	add("its second call", "%.0f µs, %.0f µs", microseconds(i.AgainFirst), microseconds(i.AgainLast))
	a := r.Attribution
	add(fmt.Sprintf("attribution of a new caller, among %d containers", a.Containers), "%.1f µs for the first %d callers, %.1f µs for the last of %d", microseconds(a.New.First), window, microseconds(a.New.Last), a.Callers)
	add("of one that was met before", "%.1f µs, %.1f µs", microseconds(a.Again.First), microseconds(a.Again.Last))
	add("and after its answer", "%.1f µs, %.1f µs", microseconds(a.After.First), microseconds(a.After.Last))
	add("heap for each caller that is remembered", "%d bytes", a.Heap)
	add("added p50 of a known caller", "%.0f µs with it alone, %.0f µs with %d more", microseconds(i.AddedFew), microseconds(i.AddedMany), i.Callers)
	return t
}

func (r *result) reached() table {
	t := table{{"to be reached", "at most", "is", ""}}
	for _, x := range r.Reach {
		got := precise(x.Got)
		if got != "" {
			got += " " + x.Unit
		}
		t = append(t, []string{x.Name, precise(x.Limit) + " " + x.Unit, got, x.verdict()})
	}
	return t
}

func number(f float64) string { return fmt.Sprintf("%.0f", f) }

func precise(f float64) string {
	if f == notMeasured {
		return ""
	}
	if f < 10 {
		return fmt.Sprintf("%.2f", f)
	}
	return number(f)
}

// table is lines of cells, the first line being the head.
type table [][]string

func (t table) text() string {
	width := make([]int, len(t[0]))
	for _, line := range t {
		for i, cell := range line {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for n, line := range t {
		b.WriteString("|")
		for i, cell := range line {
			b.WriteString(" " + cell + strings.Repeat(" ", width[i]-len([]rune(cell))) + " |")
		}
		b.WriteString("\n")
		if n > 0 {
			continue
		}
		for i := range line {
			b.WriteString("|" + strings.Repeat("-", width[i]+2))
		}
		b.WriteString("|\n")
	}
	return b.String()
}
