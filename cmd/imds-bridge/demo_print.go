package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// print shows the result as text or as one JSON object.
func (r *demoResult) print(w io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	_, err := io.WriteString(w, r.text(paintFor(w)))
	return err
}

// text tells the demo's story.
func (r *demoResult) text(p paint) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }

	line("%s", p.bold("1. IMDSv1 is off on this instance (HttpTokens=required). curl calls it directly:"))
	line("   $ curl %s", demoURL)
	line("   %s", p.status(r.Direct.Status))
	line("")
	line("%s", p.bold("2. The same curl, with the bridge running ("+r.Redirector+"):"))
	line("   $ curl %s", demoURL)
	line("   %s  %s", p.status(r.Bridged.Status), strings.TrimSpace(r.Bridged.Body))
	line("")
	line("   who called   %s, process %d, user %s", r.Caller.Comm, r.Caller.PID, r.Caller.userName())
	line("   program      %s", r.Caller.Exe)
	line("   started by   %s", r.Caller.lineage())
	line("   what         %s", r.verdict())
	line("   trace        %s", r.Trace.ID)
	for _, s := range r.Trace.tree() {
		line("                %s", s)
	}
	line("   log line     %s", r.logLine)
	line("")
	line("%s", p.bold("3. The same call from a container (another network namespace):"))
	line("   container    %s", orNone(r.Container.ID))
	line("   by default   %s  containers get no more than they had", p.status(r.Container.Default.Status))
	line("   with containers.v1: upgrade")
	line("                %s  %s", p.status(r.Container.Upgraded.Status), strings.TrimSpace(r.Container.Upgraded.Body))
	return b.String()
}

func (r *demoResult) verdict() string {
	if r.Upgraded {
		return "an IMDSv1 call, upgraded to IMDSv2"
	}
	return "not upgraded"
}

func (c demoCaller) userName() string {
	return fmt.Sprintf("%s (%d)", orNone(c.user), c.UID)
}

// lineage names the ancestors, the parent first.
func (c demoCaller) lineage() string {
	var names []string
	for _, a := range c.Ancestors {
		names = append(names, fmt.Sprintf("%s (%d)", a.Comm, a.PID))
	}
	return orNone(strings.Join(names, " < "))
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// tree is a line for each span, under its parent, with its duration.
func (t demoTrace) tree() []string {
	known := map[string]bool{}
	for _, s := range t.Spans {
		known[s.id] = true
	}
	children := map[string][]demoSpan{}
	for _, s := range t.Spans {
		if !known[s.parent] {
			s.parent = "" // a root, or a child of a span that was not sent
		}
		children[s.parent] = append(children[s.parent], s)
	}
	type row struct {
		label string
		span  demoSpan
	}
	var rows []row
	width := 0
	var grow func(parent, indent string)
	grow = func(parent, indent string) {
		for i, s := range children[parent] {
			branch, below := "├─ ", "│  "
			switch {
			case parent == "":
				branch, below = "", ""
			case i == len(children[parent])-1:
				branch, below = "└─ ", "   "
			}
			label := indent + branch + s.Name
			width = max(width, len([]rune(label)))
			rows = append(rows, row{label, s})
			grow(s.id, indent+below)
		}
	}
	grow("", "")
	lines := make([]string, len(rows))
	for i, r := range rows {
		lines[i] = fmt.Sprintf("%-*s  %-6s  %6d µs", width, r.label, r.span.Kind, r.span.DurationUS)
	}
	return lines
}

// paint colours text, if it is true.
type paint bool

// paintFor is true for a terminal whose user has not asked for no colour (no-color.org).
func paintFor(w io.Writer) paint {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func (p paint) with(code, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p paint) bold(s string) string { return p.with("1", s) }

// status is an HTTP status with its name, green if it is one of success.
func (p paint) status(code int) string {
	colour := "31"
	if code >= 200 && code < 300 {
		colour = "32"
	}
	return p.with(colour, strings.TrimSpace(strconv.Itoa(code)+" "+http.StatusText(code)))
}
