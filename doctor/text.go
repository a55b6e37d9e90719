package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteJSON writes the report as one JSON object; docs/doctor.md describes it.
func (r Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// appearance is how a status is shown: a sign, a word, and an ANSI colour.
type appearance struct{ sign, word, colour string }

var appearances = map[Status]appearance{
	OK:      {"✓", "ok", "32"},
	Limit:   {"!", "limit", "33"},
	Fail:    {"✗", "fail", "31"},
	Unknown: {"?", "unknown", "36"},
}

// The columns of the table, and the width that its text keeps to.
const (
	wordWidth  = 7
	checkWidth = 14
	textWidth  = 96
)

// WriteText writes the report for people: a line for each finding, below it what it means and the
// remedy, and the verdict at the end. With colour, statuses have one.
func (r Report) WriteText(w io.Writer, colour bool) error {
	var b strings.Builder
	indent := strings.Repeat(" ", 2+wordWidth+2+checkWidth+1)
	for _, f := range r.Findings {
		a := appearances[f.Status]
		mark := fmt.Sprintf("%s %-*s", a.sign, wordWidth, a.word)
		if colour {
			mark = "\x1b[" + a.colour + "m" + mark + "\x1b[0m"
		}
		fmt.Fprintf(&b, "%s  %-*s %s\n", mark, checkWidth, f.Check, wrap(f.Found, indent))
		if f.Means != "" {
			fmt.Fprintf(&b, "%s%s\n", indent, wrap(f.Means, indent))
		}
		if f.Remedy != "" {
			fmt.Fprintf(&b, "%s→ %s\n", indent, wrap(f.Remedy, indent+"  "))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.summary())
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Report) summary() string {
	switch r.Verdict {
	case Usable:
		return fmt.Sprintf("usable, by %s", r.Redirector)
	case Limited:
		return fmt.Sprintf("usable, by %s, with the limits above", r.Redirector)
	default:
		if r.Redirector == "" {
			return "not usable: " + r.Why
		}
		return "not usable until the failures above are remedied"
	}
}

// wrap breaks text into lines, of which all but the first begin with indent. A long word stays whole.
func wrap(text, indent string) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		n := len([]rune(word))
		switch {
		case i == 0:
		case column+1+n > textWidth:
			b.WriteString("\n" + indent)
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}

// count writes "1 rule" and "2 rules".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
