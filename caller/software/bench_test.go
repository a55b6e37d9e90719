package software

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func BenchmarkOfKnown(b *testing.B) {
	f := newFinder(b, Options{})
	c := stub(b, tempDir(b), "ruby", tempDir(b)+"/app.rb")
	eventually(b, f, c)
	for b.Loop() {
		if _, ok := f.Of(c); !ok {
			b.Fatal("not known")
		}
	}
}

// BenchmarkOfNewProcess is a process seen first of a script that is known.
func BenchmarkOfNewProcess(b *testing.B) {
	f := newFinder(b, Options{})
	c := stub(b, tempDir(b), "ruby", tempDir(b)+"/app.rb")
	eventually(b, f, c)
	for b.Loop() {
		next := *c
		c = &next
		c.ExecID++
		if _, ok := f.Of(c); !ok {
			b.Fatal("not known")
		}
	}
}

// BenchmarkLook is a look without what was remembered, for each kind of program.
func BenchmarkLook(b *testing.B) {
	dir := tempDir(b)
	write(b, dir+"/wait.py", "import boto3, sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
	for n := range 1000 {
		write(b, fmt.Sprintf("%s/node_modules/package-%d/package.json", dir, n), "{}")
	}
	write(b, dir+"/node_modules/aws-sdk/package.json", `{"name": "aws-sdk", "version": "2.1.0"}`)
	write(b, dir+"/wait.js", "console.log('ready'); process.stdin.resume()\n")
	write(b, dir+"/Main.java", waitInJava)
	write(b, dir+"/sdk.jar", jar(b, map[string]string{versionInfo: "version=1.9.1\n"}))
	install(b, "/bin/cat", dir+"/cat")
	write(b, dir+"/ready", "ready")
	jars, err := filepath.Glob("/usr/share/java/*.jar")
	if err != nil {
		b.Fatal(err)
	}
	for name, cmd := range map[string]*exec.Cmd{
		"Go":                  nil, // this one
		"native":              exec.Command(dir+"/cat", dir+"/ready", "-"),
		"native of a package": exec.Command("/bin/cat", dir+"/ready", "-"),
		"Python":              exec.Command("/usr/bin/python3", dir+"/wait.py"),
		"Node":                exec.Command("node", dir+"/wait.js"),
		"Java":                exec.Command("java", "-cp", strings.Join(append(jars, dir+"/sdk.jar"), ":"), dir+"/Main.java"),
	} {
		b.Run(name, func(b *testing.B) {
			c := callerOf(b, os.Getpid())
			if cmd != nil {
				c = run(b, cmd, "ready")
			}
			before := cpu()
			for b.Loop() {
				f, err := newIdle(Options{})
				if err != nil {
					b.Fatal(err)
				}
				p, err := f.openProcess(c)
				if err == nil {
					err = p.hold()
				}
				if err != nil {
					b.Fatal(err)
				}
				if s := f.look(b.Context(), p, false); s.Missing != "" {
					b.Fatal(s)
				}
				p.close()
				f.Close()
			}
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

// cpu is what this process has used, which does not depend on what else runs here.
func cpu() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r) // fails for other arguments alone
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkRemembered tells what each process and each executable costs to remember.
func BenchmarkRemembered(b *testing.B) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	f, err := newIdle(Options{})
	if err != nil {
		b.Fatal(err)
	}
	const processes = defaultImages
	for b.Loop() {
		before := heap()
		for n := range processes {
			f.images.Add(image{pid: uint32(n)}, nil)
		}
		between := heap()
		for n := range maxKnown {
			f.known.Add(identity{view: view{root: uint64(n)}}, answer{software: &Software{
				Libraries: []Library{
					{PyPI, "boto3", strings.Clone("1.26.27"), Installed, strings.Clone("/usr/lib/python3/dist-packages/boto3-1.26.27.egg-info")},
					{PyPI, "botocore", strings.Clone("1.29.27"), Installed, strings.Clone("/usr/lib/python3/dist-packages/botocore-1.29.27.egg-info")},
				},
				Package: Package{"dpkg", strings.Clone("python3.11-minimal"), strings.Clone("3.11.2-6+deb12u6")},
				Script:  strings.Clone("/srv/app/bin/application.py"),
			}})
		}
		b.ReportMetric(float64(between-before)/processes, "B/process")
		b.ReportMetric(float64(heap()-between)/maxKnown, "B/executable")
		f.images.Purge()
		f.known.Purge()
	}
	runtime.KeepAlive(f)
}
