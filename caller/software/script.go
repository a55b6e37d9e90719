package software

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// findScript is the file that an interpreter runs, without links; "" if it runs none, or none that
// is known.
func (l *look) findScript() string {
	if l.caller.Program.Interpreter == "" {
		return ""
	}
	if script := l.caller.Program.Script; !strings.HasPrefix(script, "-") {
		if n, ok := l.regular(l.absolute(script)); ok {
			return n.path
		}
	}
	return ""
}

// regular tells whether there is a regular file at a path. The node is closed.
func (l *look) regular(name string) (node, bool) {
	if name == "" {
		return node{}, false
	}
	n, err := l.tree.walk(name)
	if err != nil {
		return node{}, false
	}
	n.close()
	return n, n.is(unix.S_IFREG)
}

// isExecutable tells whether n is the program that runs.
func (l *look) isExecutable(n node) bool {
	return n.stat.Ino == l.id.exe.inode && n.stat.Dev == l.id.exe.dev
}

// home is the home directory of the process's user, "" if it has none.
func (l *look) home() string {
	text, ok := l.head("/etc/passwd", 1<<20)
	if !ok {
		return ""
	}
	uid := strconv.FormatUint(uint64(l.caller.UID), 10)
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(line, ":")
		if len(fields) > 5 && fields[2] == uid && strings.HasPrefix(fields[5], "/") {
			return fields[5]
		}
	}
	return ""
}
