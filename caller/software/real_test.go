package software

import (
	"archive/zip"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// output is what a command prints.
func output(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return strings.TrimSpace(string(text))
}

// A client that was built with an SDK of 2019 and is stopped before its first instruction, so that
// it calls nobody.
func TestGo(t *testing.T) {
	t.Parallel()
	const clients = "../../e2e"
	binary := filepath.Join(tempDir(t), "client")
	output(t, clients, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./clients/sdk-go-v1")

	runtime.LockOSThread() // to the one that traces
	defer runtime.UnlockOSThread()
	cmd := exec.Command(binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if link, _ := os.Readlink("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/exe"); link == binary {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the client does not start")
		}
	}
	s := lookAt(t, callerOf(t, cmd.Process.Pid))
	version := output(t, clients, "go", "list", "-m", "-f", "{{.Version}}", "github.com/aws/aws-sdk-go")
	check(t, s, Library{Go, "github.com/aws/aws-sdk-go", version, Loaded, binary})
	const module = "github.com/imds-bridge/imds-bridge/e2e"
	if want := (Program{Go, module, "", module + "/clients/sdk-go-v1"}); s.Program != want {
		t.Errorf("program %+v, want %+v", s.Program, want)
	}
	if s.Missing != "" || s.Package != (Package{}) {
		t.Errorf("got %+v", s)
	}
}

// python is the path of Debian's, without links: its version is in its name.
func python(t *testing.T) string {
	t.Helper()
	name, err := filepath.EvalSymlinks("/usr/bin/python3")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// boto is what is looked for where the machine may have other programs for AWS too.
var boto = map[string][]string{PyPI: {"boto", "boto3", "botocore"}}

// Debian's Boto 2 and Boto 3, in Debian's Python.
func TestPython(t *testing.T) {
	t.Parallel()
	script := filepath.Join(tempDir(t), "app.py")
	write(t, script, "import boto, boto3, sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
	c := run(t, exec.Command("/usr/bin/python3", script), "ready")
	s := lookFor(t, c, boto)
	var want []Library
	for _, name := range boto[PyPI] {
		lib := Library{PyPI, name, "", Installed, ""}
		lib.Version = output(t, "/", "/usr/bin/python3", "-c", "import "+name+"; print("+name+".__version__)")
		lib.Path = "/usr/lib/python3/dist-packages/" + name + "-" + lib.Version + ".egg-info"
		want = append(want, lib)
	}
	check(t, s, want...)
	for _, lib := range want {
		if got := s.LibraryPackages[lib.Path]; got != dpkgSays(t, lib.Path) {
			t.Errorf("%s is of %+v", lib.Path, got)
		}
	}
	if s.Package != dpkgSays(t, c.Executable) || s.Script != script || s.Missing != "" {
		t.Errorf("got %+v", s)
	}
}

// A virtual environment hides the system's libraries, though the executable is the system's.
func TestPythonVirtualEnv(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	output(t, dir, "/usr/bin/python3", "-m", "venv", "--without-pip", "env")
	site := dir + "/env/lib/" + filepath.Base(python(t)) + "/site-packages"
	write(t, site+"/botocore-1.12.1.dist-info/METADATA", "Name: botocore\nVersion: 1.12.1\n")
	write(t, dir+"/env/bin/app", "#!"+dir+"/env/bin/python\nimport sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
	if err := os.Chmod(dir+"/env/bin/app", 0o755); err != nil {
		t.Fatal(err)
	}
	want := Library{PyPI, "botocore", "1.12.1", Installed, site + "/botocore-1.12.1.dist-info"}
	for name, cmd := range map[string]*exec.Cmd{
		"by its interpreter": exec.Command(dir+"/env/bin/python", "-c", "import sys; print('ready', flush=True); sys.stdin.read()"),
		"by its script":      exec.Command(dir + "/env/bin/app"),
		"by PATH":            exec.Command("/usr/bin/env", "python", dir+"/env/bin/app"),
	} {
		cmd.Env = []string{"PATH=" + dir + "/env/bin:/usr/bin:/bin"}
		cmd.Dir = "/"
		s := lookFor(t, run(t, cmd, "ready"), boto)
		t.Run(name, func(t *testing.T) { check(t, s, want) })
		if name == "by its script" && s.Script != dir+"/env/bin/app" {
			t.Errorf("script %q", s.Script)
		}
	}

	system := dir + "/env/pyvenv.cfg"
	config, err := os.ReadFile(system)
	if err != nil {
		t.Fatal(err)
	}
	write(t, system, strings.Replace(string(config), "packages = false", "packages = true", 1))
	cmd := exec.Command(dir + "/env/bin/app")
	s := lookFor(t, run(t, cmd, "ready"), boto)
	if len(s.Libraries) != 3 || !slices.Contains(s.Libraries, want) {
		t.Errorf("with the system's libraries: %+v", s.Libraries)
	}
}

func TestNode(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, dir+"/package.json", `{"name": "shop", "version": "3.1.0"}`)
	sdk := dir + "/node_modules/aws-sdk/package.json"
	write(t, sdk, `{"name": "aws-sdk", "version": "2.400.0"}`)
	write(t, dir+"/node_modules/aws-sdk/index.js", "module.exports = 1\n")
	inner := dir + "/node_modules/@org/thing/node_modules/@smithy/credential-provider-imds/package.json"
	write(t, inner, `{"name": "@smithy/credential-provider-imds", "version": "4.0.1"}`)
	pnpm := dir + "/node_modules/.pnpm/aws-sdk@2.1000.0/node_modules/aws-sdk/package.json"
	write(t, pnpm, `{"name": "aws-sdk", "version": "2.1000.0"}`)
	write(t, dir+"/src/app.js", "require('aws-sdk'); console.log('ready'); process.stdin.resume()\n")
	if err := os.Symlink("src/app.js", dir+"/start"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", dir+"/start")
	cmd.Dir = "/"
	s := lookAt(t, run(t, cmd, "ready"))
	check(t, s,
		Library{NPM, "aws-sdk", "2.400.0", Installed, sdk},
		Library{NPM, "@smithy/credential-provider-imds", "4.0.1", Installed, inner},
		Library{NPM, "aws-sdk", "2.1000.0", Installed, pnpm},
	)
	if want := (Program{NPM, "shop", "3.1.0", ""}); s.Program != want || s.Script != dir+"/src/app.js" {
		t.Errorf("got %+v", s)
	}
}

// jar makes an archive of these files; those that end in .jar and empty ones are not packed.
func jar(t testing.TB, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, text := range files {
		header := &zip.FileHeader{Name: name, Method: zip.Deflate}
		if strings.HasSuffix(name, ".jar") || text == "" {
			header.Method = zip.Store
		}
		f, err := w.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const waitInJava = `public class Main { public static void main(String[] a) throws Exception {
	Main.class.getResource("/absent"); System.out.print("ready"); System.out.flush(); System.in.read(); } }`

// One virtual machine, with a library that is a jar, one that was packed into another, one in a jar
// in a jar, and one on the class path that nobody opened.
func TestJava(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	pom := func(group, artifact, version string) map[string]string {
		return map[string]string{
			"META-INF/maven/" + group + "/" + artifact + "/pom.properties": "#Generated\nversion=" + version + "\r\n",
		}
	}
	write(t, dir+"/lib/aws-java-sdk-core-1.11.600.jar", jar(t, map[string]string{"com/amazonaws/SDK.class": ""}))
	write(t, dir+"/lib/shaded.jar", jar(t, map[string]string{versionInfo: "platform=java\nversion=1.9.1\n"}))
	write(t, dir+"/lib/fat.jar", jar(t, map[string]string{
		"BOOT-INF/lib/imds-2.20.1.jar":    jar(t, pom("software.amazon.awssdk", "imds", "2.20.1")),
		"BOOT-INF/lib/auth-9.0.jar":       jar(t, pom("org.example", "auth", "9.0")),
		"BOOT-INF/classes/app/Main.class": "",
	}))
	write(t, dir+"/lib/later.jar", jar(t, pom("com.amazonaws", "aws-java-sdk-core", "1.0.0")))
	write(t, dir+"/Main.java", waitInJava)
	output(t, dir, "javac", "Main.java")
	classes, err := os.ReadFile(dir + "/Main.class")
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/app.jar", jar(t, map[string]string{
		"Main.class": string(classes),
		"META-INF/MANIFEST.MF": "Manifest-Version: 1.0\r\nMain-Class: Main\r\n" +
			"Class-Path: lib/aws-java-sdk-core-1.11.600.jar lib/shaded.jar lib/fat.jar\r\n" +
			"Implementation-Title: Shop \u00fc\r\nImplementation-Version: 4.2\r\n",
	}))
	cmd := exec.Command("java", "-Xmx32m", "-jar", "app.jar", dir+"/lib/later.jar")
	cmd.Dir = dir
	c := run(t, cmd, "ready")
	s := lookAt(t, c)
	const core = "com.amazonaws:aws-java-sdk-core"
	check(t, s,
		Library{Maven, core, "1.11.600", Loaded, dir + "/lib/aws-java-sdk-core-1.11.600.jar"},
		Library{Maven, core, "1.9.1", Loaded, dir + "/lib/shaded.jar"},
		Library{Maven, "software.amazon.awssdk:imds", "2.20.1", Loaded, dir + "/lib/fat.jar!/BOOT-INF/lib/imds-2.20.1.jar"},
	)
	if want := (Program{Maven, "Shop ü", "4.2", ""}); s.Program != want || s.Script != dir+"/app.jar" {
		t.Errorf("got %+v", s)
	}
	if s.Package != dpkgSays(t, c.Executable) {
		t.Errorf("package %+v", s.Package)
	}
}
