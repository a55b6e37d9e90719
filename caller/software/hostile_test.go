package software

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lookFast looks at a process, and fails if that takes longer than a look may.
func lookFast(t *testing.T, cmd *exec.Cmd) *Software {
	t.Helper()
	c := run(t, cmd, "ready")
	began := time.Now()
	s := lookAt(t, c)
	// maxLook is of work that is let go on; the machine may be busy, and without a bound this takes minutes.
	if took := time.Since(began); took > 10*maxLook {
		t.Errorf("took %v", took)
	}
	return s
}

func nodeIn(dir string) *exec.Cmd {
	cmd := exec.Command("node", "-e", "console.log('ready'); process.stdin.resume()")
	cmd.Dir = dir
	return cmd
}

// A package.json that is a FIFO, one that is a link to a device, one that is a link out of the root or
// to nowhere, one without end and one that nests without end: each is no package, and none holds the look.
func TestHostileFiles(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	file := func(name string) string {
		name = filepath.Join(dir, "node_modules", name, "package.json")
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		return name
	}
	if err := unix.Mkfifo(file("aws-sdk"), 0o644); err != nil {
		t.Fatal(err)
	}
	link(t, "/dev/zero", file("@smithy/credential-provider-imds"))
	sparse := file("@aws-sdk/credential-provider-imds")
	write(t, sparse, `{"name": "@aws-sdk/credential-provider-imds", "version": "`)
	if err := os.Truncate(sparse, 1<<40); err != nil {
		t.Fatal(err)
	}
	write(t, file("@aws-sdk/ec2-metadata-service"), strings.Repeat(`{"name":`, 50000))
	deep := dir + "/node_modules"
	for range 60 {
		deep += "/@a"
	}
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, "..", dir+"/node_modules/circle")
	link(t, "../../node_modules", dir+"/node_modules/@a/node_modules")

	s := lookFast(t, nodeIn(dir))
	check(t, s)
	if !strings.HasSuffix(s.Missing, ": "+errNotRegular.Error()) {
		t.Errorf("missing: %q", s.Missing)
	}
}

// Text that would move a terminal's cursor or fill a log.
func TestHostileText(t *testing.T) {
	t.Parallel()
	dir := tempDir(t) + "/a\nb\x1b[2J"
	write(t, dir+"/node_modules/aws-sdk/package.json", `{"name": "aws-sdk", "version": "1.0\u001b[2J"}`)
	write(t, dir+"/package.json", `{"name": "`+strings.Repeat("n", 4000)+`", "version": "1\n2"}`)
	write(t, dir+"/app.js", "console.log('ready'); process.stdin.resume()\n")
	cmd := exec.Command("node", "app.js")
	cmd.Dir = dir
	s := lookFast(t, cmd)
	if s.Program != (Program{}) {
		t.Errorf("program %+v", s.Program)
	}
	if len(s.Libraries) != 1 || s.Libraries[0].Version != "" || !strings.HasSuffix(s.Libraries[0].Path, "/a?b?[2J/node_modules/aws-sdk/package.json") {
		t.Errorf("libraries %+v", s.Libraries)
	}
}

// More files than anybody has: what comes after them is still found, or said to be missing.
func TestManyFiles(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, dir+"/node_modules/aws-sdk/package.json", `{"name": "aws-sdk", "version": "2.1.0"}`)
	const files, each = 100_000, 20_000 // links of one file
	for n := range files {
		original := fmt.Sprintf("%s/node_modules/f%d", dir, n-n%each)
		if n%each == 0 {
			write(t, original, "")
		} else if err := os.Link(original, fmt.Sprintf("%s/node_modules/f%d", dir, n)); err != nil {
			t.Fatal(err)
		}
	}
	s := lookFast(t, nodeIn(dir))
	check(t, s, Library{NPM, "aws-sdk", "2.1.0", Installed, dir + "/node_modules/aws-sdk/package.json"})
	if !strings.HasSuffix(s.Missing, ": "+errBudget.Error()) {
		t.Errorf("missing: %q", s.Missing)
	}
}

// Jars of 1 GiB that are empty, whose directory is said to be as large, and one with a bomb in it.
func TestHostileJars(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	const pom = "META-INF/maven/com.amazonaws/aws-java-sdk-core/pom.properties"
	write(t, dir+"/bomb.jar", jar(t, map[string]string{pom: "version=1.2.3\n" + strings.Repeat("\x00", 16<<20)}))
	sparse := func(name, end string) {
		write(t, dir+"/"+name, "")
		f, err := os.OpenFile(dir+"/"+name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte(end), 1<<30); err != nil {
			t.Fatal(err)
		}
	}
	sparse("empty.jar", "\x00")
	end := "PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff" + "\x00\x00\x00\x40\x00\x00\x00\x00" + "\x00\x00"
	sparse("directory.jar", end)
	sparse("aws-java-sdk-1.3.0.jar", end)
	write(t, dir+"/libjvm.so", "library")
	s := lookFast(t, mapping(t, dir+"/app", dir+"/libjvm.so", dir+"/empty.jar", dir+"/directory.jar", dir+"/aws-java-sdk-1.3.0.jar", dir+"/bomb.jar"))
	check(t, s,
		Library{Maven, "com.amazonaws:aws-java-sdk", "1.3.0", Loaded, dir + "/aws-java-sdk-1.3.0.jar"},
		Library{Maven, "com.amazonaws:aws-java-sdk-core", "1.2.3", Loaded, dir + "/bomb.jar"})
}

// An executable that is half a Go program, and one of noise: neither ends the bridge.
func TestHostileExecutable(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, dir+"/script", "#!/bin/sh\necho ready\nread line\n")
	if err := os.Chmod(dir+"/script", 0o755); err != nil {
		t.Fatal(err)
	}
	c := run(t, exec.Command(dir+"/script"), "ready")
	f := newFinder(t, Options{})
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cut":   string(self[:len(self)/2]),
		"noise": "\x7fELF\x02\x01\x01" + strings.Repeat("\xff\xfe\x01\x00", 1<<18),
		"empty": "",
	} {
		write(t, dir+"/"+name, text)
		p, err := f.openProcess(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.hold(); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(p.exe)
		if p.exe, err = unix.Open(dir+"/"+name, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
		p.id.exe.size = int64(len(text))
		s := f.look(t.Context(), p, false)
		p.close()
		if s.Program != (Program{}) || s.Script != dir+"/script" {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// A parser that panics takes its look with it, and nothing else.
func TestPanic(t *testing.T) {
	t.Parallel()
	l := &look{process: &process{exePath: "/app"}}
	l.all(t.Context()) // has no caller
	if !strings.HasPrefix(l.found.Missing, "/app: malformed file: ") {
		t.Errorf("missing: %q", l.found.Missing)
	}
}
