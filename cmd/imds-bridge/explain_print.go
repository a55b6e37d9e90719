package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

func (x *explanation) write(w io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(x)
	}
	_, err := io.WriteString(w, x.text(paintFor(w)))
	return err
}

// text is for people. All that is in it was made printable where it was gathered.
func (x *explanation) text(p paint) string {
	var b strings.Builder
	var common []fact
	if x.Container != "" && len(x.Processes) > 1 {
		common = x.common()
		fmt.Fprintf(&b, "%s\n", p.bold(fmt.Sprintf("container %s: %d processes, which have in common", x.Container, len(x.Processes)+x.More)))
		writeFacts(&b, p, common)
		b.WriteByte('\n')
	}
	for i, process := range x.Processes {
		if i > 0 {
			b.WriteByte('\n')
		}
		title := fmt.Sprintf("process %d", process.PID)
		if process.Ended {
			title += " has ended; the running bridge remembers of it"
		}
		fmt.Fprintf(&b, "%s\n", p.bold(title))
		writeFacts(&b, p, slices.DeleteFunc(slices.Clone(process.Facts), func(f fact) bool { return holds(common, f) }))
	}
	if x.More > 0 {
		fmt.Fprintf(&b, "\nand %d more processes: name one by its pid\n", x.More)
	}
	if len(x.Sources) > 0 {
		fmt.Fprintf(&b, "\n%s\n", p.bold("sources of containers"))
		for _, s := range x.Sources {
			state := "ready"
			if !s.Ready {
				state = "not there: " + s.Error
			}
			fmt.Fprintf(&b, "  %-12s %s\n", s.Source, state)
		}
	}
	if len(x.Missing) > 0 {
		fmt.Fprintf(&b, "\n%s\n", p.bold("missing"))
		for _, m := range x.Missing {
			fmt.Fprintf(&b, "  %s\n", m)
		}
	}
	return b.String()
}

// common are the facts that hold for all processes of a container.
func (x *explanation) common() (list []fact) {
	for _, f := range x.Processes[0].Facts {
		if !slices.ContainsFunc(x.Processes[1:], func(p explained) bool { return !holds(p.Facts, f) }) {
			list = append(list, f)
		}
	}
	return list
}

// holds tells whether a fact is among others, wherever each is known from.
func holds(list []fact, f fact) bool {
	return slices.ContainsFunc(list, func(g fact) bool { return g.Name == f.Name && g.Value == f.Value })
}

// Where a line's columns begin. What is known from where goes to a line of its own behind a long value.
const (
	nameWidth  = 16
	valueWidth = 56
)

func writeFacts(b *strings.Builder, p paint, list []fact) {
	for _, f := range list {
		value, gap := f.Value, valueWidth-utf8.RuneCountInString(f.Value)
		switch {
		case value == "" && f.Why != "":
			value = "unknown: " + f.Why
		case value == "":
			value = "unknown"
		case f.From != "" && gap > 0:
			value += strings.Repeat(" ", gap) + p.with("2", "← "+f.From)
		case f.From != "":
			value += "\n" + strings.Repeat(" ", nameWidth+3) + p.with("2", "← "+f.From)
		}
		fmt.Fprintf(b, "  %-*s %s\n", nameWidth, f.Name, value)
	}
}
