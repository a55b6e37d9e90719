package caller

import (
	"bytes"
	"path"
	"strings"
)

// Program is what an interpreter runs. It is zero for any other executable.
type Program struct {
	// Interpreter is python, node, ruby, java, php, perl, sh, bash, dash, zsh or ksh, as the executable
	// tells, whatever the process calls itself.
	Interpreter string
	// Script is, redacted as arguments are,
	//   - the path of the file it runs, of java the jar. One that was given relative is joined to the
	//     directory that the process is in now, unless that is /, where daemons go;
	//   - "-m name" for a module; of java the main class;
	//   - the option alone ("-c", "-e", "-s") where the program is an argument or standard input, and
	//     "-" for standard input;
	//   - the title of a process that wrote one over its arguments ("gunicorn: master [app]");
	//   - "" where the interpreter was given nothing to run, or that cannot be told.
	Script string
}

// namesCode tells whether a script is a name, and not only the way in which one was given.
func namesCode(script string) bool {
	return script != "" && (script[0] != '-' || strings.HasPrefix(script, "-m "))
}

// program tells what p runs as executable. line is its command line, of which partial says that
// there may be more.
func (p process) program(executable string, line []byte, partial bool) Program {
	name := interpreter(executable, line)
	if name == "" {
		return Program{}
	}
	if title, ok := title(line); ok && !partial {
		return Program{name, showScript(title)}
	}
	found := findScript(name, line, partial)
	if found.missing {
		buf := longLines.Get().(*[]byte)
		defer longLines.Put(buf)
		if line, err := p.read("/cmdline", *buf); err == nil {
			found = findScript(name, line, len(line) == len(*buf))
		}
	}
	switch {
	case found.missing:
		return Program{Interpreter: name}
	case found.file:
		return Program{name, showScript(p.absolute(found.what))}
	}
	return Program{name, showScript(found.what)}
}

// script tells what p runs as executable, which costs little where that is no interpreter.
func (p process) script(executable string, buf []byte) string {
	if name := unversioned(path.Base(executable)); interpreters[name] == "" && !isBusybox(name) {
		return ""
	}
	line, partial, err := p.commandLine(buf)
	if err != nil {
		return ""
	}
	return p.program(executable, line, partial).Script
}

// showScript makes what was found fit to be shown.
func showScript(s string) string {
	var h hider
	return strings.Clone(printable(h.argument(s, false), maxExecutable))
}

// absolute makes the path of a script absolute, as the process sees it.
func (p process) absolute(script string) string {
	if path.IsAbs(script) || strings.Contains(script, "://") {
		return script
	}
	directory := p.directory()
	if !path.IsAbs(directory) || directory == "/" || strings.HasSuffix(directory, " (deleted)") {
		return script
	}
	return path.Join(directory, script)
}

// interpreters by the names of their executables, without versions.
var interpreters = map[string]string{
	"python": "python", "platform-python": "python", "pypy": "python",
	"node": "node", "nodejs": "node",
	"ruby": "ruby", "java": "java", "perl": "perl",
	"php": "php", "php-cgi": "php", "php-fpm": "php",
	"sh": "sh", "ash": "sh", "bash": "bash", "dash": "dash",
	"zsh": "zsh", "ksh": "ksh", "mksh": "ksh",
}

// interpreter tells which interpreter an executable is, "" if none. Of busybox the first argument
// tells.
func interpreter(executable string, line []byte) string {
	name := unversioned(path.Base(executable))
	if !isBusybox(name) {
		return interpreters[name]
	}
	a := arguments{line: line}
	applet, _ := a.next()
	if isBusybox(path.Base(applet)) {
		applet, _ = a.next()
	}
	switch strings.TrimPrefix(path.Base(applet), "-") {
	case "sh", "ash", "hush":
		return "sh"
	}
	return ""
}

func isBusybox(name string) bool {
	return name == "busybox" || strings.HasPrefix(name, "busybox.") || strings.HasPrefix(name, "busybox-")
}

// unversioned cuts the version off the name of an interpreter: python3.11d, ruby2.7, node-20,
// perl5.36-x86_64-linux-gnu. sh4re is the name of something else.
func unversioned(name string) string {
	at := strings.IndexAny(name, "0123456789")
	if at < 0 {
		return name
	}
	switch build := strings.TrimLeft(name[at:], "0123456789."); {
	case build == "", build == "d", build == "m", build == "dm", build == "t", build == "td",
		build == "-dbg", build == "-debug", strings.HasPrefix(build, "-") && strings.Contains(build, "linux"):
		return strings.TrimSuffix(name[:at], "-")
	}
	return name
}

// title returns what a process wrote over its arguments: one text, that is not the name of an interpreter.
func title(line []byte) (string, bool) {
	text := string(bytes.TrimRight(line, "\x00 "))
	if text == "" || strings.Contains(text, "\x00") {
		return "", false
	}
	name := unversioned(path.Base(strings.TrimPrefix(text, "-")))
	return text, strings.Contains(text, " ") || interpreters[name] == "" && !isBusybox(name)
}

// arguments are the words of a command line.
type arguments struct {
	line    []byte
	partial bool // the last one may be there in part, and more behind it
	missing bool // one was asked for that is not there in full
}

func (a *arguments) next() (word string, ok bool) {
	before, rest, ended := bytes.Cut(a.line, []byte{0})
	if a.partial && !ended {
		a.missing = true
		return "", false
	}
	ok = len(a.line) > 0
	a.line = rest
	return string(before), ok
}
