package software

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// dpkgSays is what dpkg itself says of a file.
func dpkgSays(t *testing.T, name string) Package {
	t.Helper()
	for _, spelling := range spellings(name) {
		out, err := exec.Command("dpkg-query", "--search", spelling).Output()
		if err != nil {
			continue
		}
		owner, _, _ := strings.Cut(string(out), ": ")
		version := output(t, "/", "dpkg-query", "--show", "--showformat", "${Version}", owner)
		owner, _, _ = strings.Cut(owner, ":")
		return Package{"dpkg", owner, version}
	}
	t.Fatalf("dpkg does not know %s", name)
	return Package{}
}

// treeOf is the tree below a directory.
func treeOf(t testing.TB, dir string) tree {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return tree{fd, newBudget(t.Context(), packagesBytes)}
}

// Files of this machine's own packages: one that dpkg knows by the path before the merge of /usr, one of
// a package of several architectures, a link's target, and one that no package has.
func TestDpkg(t *testing.T) {
	t.Parallel()
	root := treeOf(t, "/")
	for _, link := range []string{"/bin/bash", "/bin/cat", "/usr/bin/python3", "/usr/bin/java", "/usr/bin/perl", "/lib64/ld-linux-x86-64.so.2", "/usr/bin/node"} {
		name, err := filepath.EvalSymlinks(link)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := findOwner(root, name); err != nil || got != dpkgSays(t, name) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, dpkgSays(t, name))
		}
	}
	for _, name := range []string{"/usr/bin/absent", "/usr/bin", "bash", "/"} {
		if got, err := findOwner(root, name); err != nil || name == "/usr/bin/absent" && got != (Package{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestPackageDatabases(t *testing.T) {
	t.Parallel()
	const status = "Package: tool\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2.0-1\n" +
		"Description: x\n Version: 9\n\nPackage: tool\nArchitecture: i386\nVersion: 1:2.0-2\n\nPackage: other\nVersion: 3\n"
	var many strings.Builder
	for n := range 40000 {
		fmt.Fprintf(&many, "/many/%d\n", n)
	}
	manyFiles := many.String()
	for name, test := range map[string]struct {
		files map[string]string
		want  map[string]Package
	}{
		"dpkg": {
			map[string]string{
				"/var/lib/dpkg/status":               status,
				"/var/lib/dpkg/info/tool:i386.list":  "/.\n/bin\n/bin/tool32\n",
				"/var/lib/dpkg/info/tool:amd64.list": "/.\n/usr\n/usr/bin/tool\n",
				"/var/lib/dpkg/info/other.list":      "/.\n/usr/bin/tool2\n/opt/usr/bin/tool3\n" + manyFiles,
				"/var/lib/dpkg/info/other.md5sums":   "0  usr/bin/tool4\n",
			},
			map[string]Package{
				"/usr/bin/tool":   {"dpkg", "tool", "1:2.0-1"},
				"/bin/tool":       {"dpkg", "tool", "1:2.0-1"},
				"/usr/bin/tool32": {"dpkg", "tool", "1:2.0-2"},
				"/usr/bin/tool2":  {"dpkg", "other", "3"},
				"/usr/bin/tool3":  {},
				"/usr/bin/tool4":  {},
				"/many/0":         {"dpkg", "other", "3"},
				"/many/39999":     {"dpkg", "other", "3"},
			},
		},
		"distroless": {
			map[string]string{
				"/var/lib/dpkg/status.d/tool":         "Package: tool\nVersion: 2.0-1\n",
				"/var/lib/dpkg/status.d/tool.md5sums": "d41d8cd98f00b204e9800998ecf8427e  usr/bin/tool\n",
			},
			map[string]Package{"/usr/bin/tool": {"dpkg", "tool", "2.0-1"}, "/bin/tool": {"dpkg", "tool", "2.0-1"}, "/usr/bin/too": {}},
		},
		"apk": {
			map[string]string{"/lib/apk/db/installed": "C:Q1a=\nP:musl\nV:1.2.5-r0\nF:lib\nR:ld-musl-x86_64.so.1\na:0:0:755\n\n" +
				"P:tool\nV:2.0-r1\nF:etc\nF:usr/bin\nR:other\nR:tool\nZ:Q1b=\n\n"},
			map[string]Package{
				"/usr/bin/tool":             {"apk", "tool", "2.0-r1"},
				"/lib/ld-musl-x86_64.so.1":  {"apk", "musl", "1.2.5-r0"},
				"/etc/tool":                 {},
				"/usr/lib/ld-musl-x86.so.1": {},
			},
		},
		"none":      {nil, map[string]Package{"/usr/bin/tool": {}}},
		"malformed": {map[string]string{"/lib/apk/db/installed": "\n:\nR\nR:tool\n\xff\x00:", "/var/lib/dpkg/info/x": ""}, map[string]Package{"/tool": {}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			for file, text := range test.files {
				write(t, dir+file, text)
			}
			root := treeOf(t, dir)
			for file, want := range test.want {
				if got, err := findOwner(root, file); got != want || err != nil {
					t.Errorf("%s: %+v, %v, want %+v", file, got, err, want)
				}
			}
		})
	}
}

// A program whose package was upgraded under it is not of the new version, and says so by no package.
func TestReplacedExecutable(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	c := stub(t, dir, "ruby", dir+"/script.rb")
	f := newFinder(t, Options{})
	if err := os.Remove(c.Executable); err != nil {
		t.Fatal(err)
	}
	install(t, "/bin/cat", c.Executable)
	p, err := f.openProcess(c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.hold(); err != nil {
		t.Fatal(err)
	}
	l := &look{process: p, finder: f}
	if _, ok := l.same(treeOf(t, "/")); ok {
		t.Error("the new file is taken for the one that runs")
	}
}

// A line is found wherever it lies, also across the parts in which a list is read.
func TestFileHas(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	var list strings.Builder
	const part = 4 * maxLine
	for n := range part {
		fmt.Fprintf(&list, "\n%d", n)
	}
	list.WriteString("\n")
	write(t, dir+"/list", list.String())
	files := treeOf(t, dir)
	root, err := files.walk("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.close()
	buf := make([]byte, part)
	for n := range part {
		if n%37 > 0 && n > 4000 { // all that can lie across the first border, and some others
			continue
		}
		files.budget = newBudget(t.Context(), packagesBytes)
		if has, err := files.fileHas(root, "list", buf, [][]byte{fmt.Appendf(nil, "\n%d\n", n)}); !has || err != nil {
			t.Fatalf("line %d: %v, %v", n, has, err)
		}
	}
	if has, err := files.fileHas(root, "list", buf, [][]byte{[]byte("\n-1\n")}); has || err != nil {
		t.Errorf("%v, %v", has, err)
	}
}
