//go:build root

package caller

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Interpreters as they are installed, each with a script that says that it runs and waits.
func TestRealInterpreters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"s.py":       "#!/usr/bin/env -S python3 -u\nimport sys\nprint('runs', flush=True)\nsys.stdin.readline()\n",
		"s.js":       "console.log('runs'); process.stdin.once('end', () => process.exit()); process.stdin.resume()\n",
		"title.js":   "process.title = 'renamed'; console.log('runs'); process.stdin.once('end', () => process.exit()); process.stdin.resume()\n",
		"s.pl":       "$| = 1; print \"runs\\n\"; <STDIN>;\n",
		"title.pl":   "$| = 1; $0 = 'worker: queue 1'; print \"runs\\n\"; <STDIN>;\n",
		"s.sh":       "echo runs\nread answer\n",
		"Wait.java":  "class Wait { public static void main(String[] a) throws Exception { System.out.println(\"runs\"); System.in.read(); } }\n",
		"preload.js": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	inline := "echo runs; read answer; true"

	for _, test := range []struct {
		args []string
		want Program
	}{
		{words("/usr/bin/python3 -u -W ignore -X dev s.py"), Program{"python", in("s.py")}},
		{words("/usr/bin/python3 -IuWignore ./s.py"), Program{"python", in("s.py")}},
		{words("/usr/bin/python3 -m s"), Program{"python", "-m s"}},
		{[]string{"/usr/bin/python3", "-c", "import sys; print('runs', flush=True); sys.stdin.readline()", "s.py"}, Program{"python", "-c"}},
		{[]string{in("s.py"), "x"}, Program{"python", in("s.py")}},
		{words("node --require ./preload.js --inspect=127.0.0.1:0 --no-warnings s.js"), Program{"node", in("s.js")}},
		{words("node --max-old-space-size=100 --unhandled-rejections strict -- s.js"), Program{"node", in("s.js")}},
		{words("node title.js"), Program{"node", "renamed"}},
		{words("/usr/bin/perl -w -I lib -Mstrict s.pl"), Program{"perl", in("s.pl")}},
		{words("/usr/bin/perl -CSD -l012 -0777 s.pl"), Program{"perl", in("s.pl")}},
		{words("/usr/bin/perl title.pl"), Program{"perl", "worker: queue 1"}},
		{words("bash -euo pipefail -O extglob +x s.sh"), Program{"bash", in("s.sh")}},
		{words("bash --norc --rcfile x s.sh"), Program{"bash", in("s.sh")}},
		{[]string{"bash", "-euo", "pipefail", "-c", inline}, Program{"bash", "-c"}},
		{words("java -Xmx64m -cp . --source 17 Wait.java"), Program{"java", in("Wait.java")}},
	} {
		t.Run(filepath.Base(test.args[0])+" "+test.args[1], func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(test.args[0], test.args[1:]...)
			cmd.Dir = dir
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = stdin.Close()
				_ = cmd.Wait()
			}()
			if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "runs\n" {
				t.Fatalf("%q: got %q, %v", test.args, line, err)
			}
			c := named(t, newReader(t, Options{}), origin(t, cmd.Process.Pid))
			if c.Program != test.want {
				t.Errorf("%q: got %+v, want %+v", test.args, c.Program, test.want)
			}
		})
	}
}
