package caller

import (
	"strings"
	"testing"
)

func commandLine(args ...string) []byte { return []byte(strings.Join(args, "\x00") + "\x00") }

// Arguments as they are in /proc, of processes whose directory is /srv.
func TestProgram(t *testing.T) {
	t.Parallel()
	proc := fakeProc(t.TempDir())
	proc.put(t, fakeProcess{pid: 10, cwd: "/srv"})
	p := processAt(string(proc), 10)
	for _, test := range []struct {
		executable string
		args       []string
		want       Program
	}{
		// python
		{"/usr/bin/python3.11", words("python3 app.py"), Program{"python", "/srv/app.py"}},
		{"/usr/bin/python3.11", words("python3 ./app.py --x"), Program{"python", "/srv/app.py"}},
		{"/usr/bin/python3.11", words("python3 ../opt/app.py"), Program{"python", "/opt/app.py"}},
		{"/usr/bin/python3.11", words("/usr/bin/python3 /usr/bin/supervisord -c x"), Program{"python", "/usr/bin/supervisord"}},
		{"/usr/bin/python2.7", words("python -u -W ignore -X dev app.py"), Program{"python", "/srv/app.py"}},
		{"/usr/bin/python3.11", words("python3 -Wignore -Xdev -bb -OO app.py"), Program{"python", "/srv/app.py"}},
		{"/usr/bin/python3.11", words("python3 -IuW ignore app.py"), Program{"python", "/srv/app.py"}},
		{"/usr/bin/python3.11", words("python3 --check-hash-based-pycs never app.py"), Program{"python", "/srv/app.py"}},
		{"/usr/bin/python3.11", words("python3 -m http.server 80"), Program{"python", "-m http.server"}},
		{"/usr/bin/python3.11", words("python3 -Im http.server"), Program{"python", "-m http.server"}},
		{"/usr/bin/python3.11", []string{"python3", "-c", "import boto3", "app.py"}, Program{"python", "-c"}},
		{"/usr/bin/python3.11", []string{"python3", "-uc", "import boto3"}, Program{"python", "-c"}},
		{"/usr/bin/python3.11", words("python3 -"), Program{"python", "-"}},
		{"/usr/bin/python3.11", words("python3"), Program{"python", ""}},
		{"/usr/bin/python3.11", []string{"/usr/bin/python3", "-u -O", "/opt/run"}, Program{"python", "/opt/run"}}, // of a #! line
		{"/usr/bin/python3.13t", words("python3 a"), Program{"python", "/srv/a"}},
		{"/usr/libexec/platform-python3.6", words("/usr/libexec/platform-python /usr/bin/cloud-init"), Program{"python", "/usr/bin/cloud-init"}},
		{"/usr/bin/pypy3.9", words("pypy3 a.py"), Program{"python", "/srv/a.py"}},

		// titles
		{"/usr/bin/python3.11", []string{"gunicorn: master [app]"}, Program{"python", "gunicorn: master [app]"}},
		{"/usr/bin/python3.11", []string{"gunicorn: worker [app]", "", "", ""}, Program{"python", "gunicorn: worker [app]"}},
		{"/usr/bin/python3.11", []string{"[celeryd: celery@h:MainProcess] -active- (worker -A app)"},
			Program{"python", "[celeryd: celery@h:MainProcess] -active- (worker -A app)"}},
		{"/usr/bin/node", []string{"npm run start"}, Program{"node", "npm run start"}},
		{"/usr/bin/node", []string{"PM2 v5.3.0: God Daemon (/root/.pm2)"}, Program{"node", "PM2 v5.3.0: God Daemon (/root/.pm2)"}},
		{"/usr/bin/node", []string{"worker"}, Program{"node", "worker"}},
		{"/usr/sbin/php-fpm8.2", []string{"php-fpm: pool www"}, Program{"php", "php-fpm: pool www"}},
		{"/usr/bin/ruby3.1", []string{"puma 6.4.0 (tcp://0.0.0.0:3000) [app]   "}, Program{"ruby", "puma 6.4.0 (tcp://0.0.0.0:3000) [app]"}},
		{"/usr/bin/python3.11", []string{"app --password hunter2"}, Program{"python", "app --password ***"}},
		{"/usr/bin/python3.11", []string{"a\nb \x1b[31m"}, Program{"python", `a\nb \x1b[31m`}},

		// node
		{"/usr/bin/node", words("node server.js"), Program{"node", "/srv/server.js"}},
		{"/usr/bin/node", words("node --require x -r y --inspect=0.0.0.0:9229 --inspect server.js"), Program{"node", "/srv/server.js"}},
		{"/usr/bin/node", words("node --max-old-space-size=4096 --max_old_space_size=1 --import ./x.mjs server.js"), Program{"node", "/srv/server.js"}},
		{"/usr/bin/node", words("node --no-warnings --experimental-loader ts-node/esm --env-file .env -C dev server.js"), Program{"node", "/srv/server.js"}},
		{"/usr/bin/node", words("node --max_http_header_size 9 --enable-source-maps -- -server.js"), Program{"node", "/srv/-server.js"}},
		{"/usr/bin/node", []string{"node", "-e", "require('aws-sdk')", "x"}, Program{"node", "-e"}},
		{"/usr/bin/node", []string{"node", "--eval=require('aws-sdk')"}, Program{"node", "--eval"}},
		{"/usr/bin/node", []string{"node", "-pe", "1"}, Program{"node", "-pe"}},
		{"/usr/bin/node", words("node /usr/bin/npx tool"), Program{"node", "/usr/bin/npx"}},
		{"/usr/bin/node", words("node node_modules/.bin/ts-node -P tsconfig.json --files src/app.ts"), Program{"node", "/srv/src/app.ts"}},
		{"/usr/bin/node", words("node /usr/bin/ts-node"), Program{"node", "/usr/bin/ts-node"}},
		{"/usr/bin/node", []string{"node", "/usr/bin/ts-node", "-e", "1"}, Program{"node", "-e"}},
		{"/usr/bin/nodejs", words("nodejs -"), Program{"node", "-"}},
		{"/usr/bin/node-20", words("node x.js"), Program{"node", "/srv/x.js"}},
		{"/usr/bin/node", words("node --run build"), Program{"node", "--run"}},
		{"/usr/bin/node", words("node https://example.com/x.mjs"), Program{"node", "https://example.com/x.mjs"}},

		// ruby
		{"/usr/bin/ruby2.7", words("ruby -I lib -r json -W0 -W:no-deprecated app.rb"), Program{"ruby", "/srv/app.rb"}},
		{"/usr/bin/ruby3.1", words("ruby -Ilib -rjson -w -E UTF-8 --encoding utf-8 --disable gems --yjit app.rb"), Program{"ruby", "/srv/app.rb"}},
		{"/usr/bin/ruby3.1", []string{"ruby", "-rnet/http", "-e", "puts 1"}, Program{"ruby", "-e"}},
		{"/usr/bin/ruby3.1", []string{"ruby", "-ne", "puts 1", "x"}, Program{"ruby", "-e"}},
		{"/usr/bin/ruby3.1", words("ruby /usr/bin/bundle exec rake"), Program{"ruby", "/usr/bin/bundle"}},
		{"/usr/bin/ruby3.1", words("ruby -S rake"), Program{"ruby", "rake"}}, // from PATH

		// java
		{"/usr/lib/jvm/java-17/bin/java", words("java -Xmx1g -Dx=y -XX:+UseG1GC -agentlib:jdwp=x -javaagent:/a.jar -jar app.jar --spring"), Program{"java", "/srv/app.jar"}},
		{"/usr/lib/jvm/java-17/bin/java", words("java -jar -Xmx1g app.war"), Program{"java", "/srv/app.war"}},
		{"/usr/lib/jvm/java-17/bin/java", words("java -cp a.jar:b.jar com.example.Main x"), Program{"java", "com.example.Main"}},
		{"/usr/lib/jvm/java-17/bin/java", words("java -classpath a.jar -ea com.example.Main"), Program{"java", "com.example.Main"}},
		{"/usr/lib/jvm/java-17/bin/java", words("java --class-path=a.jar --add-opens java.base/java.lang=ALL-UNNAMED com.example.Main"), Program{"java", "com.example.Main"}},
		{"/usr/lib/jvm/java-17/bin/java", words("java --module-path mods --add-modules x -m mod/com.example.Main"), Program{"java", "-m mod/com.example.Main"}},
		{"/usr/lib/jvm/java-17/bin/java", words("java -p mods --module=mod"), Program{"java", "-m mod"}},
		{"/usr/lib/jvm/java-17/bin/java", words("java --source 17 Hello.java"), Program{"java", "/srv/Hello.java"}},
		{"/usr/lib/jvm/java-17/bin/java", words("java @/opt/args"), Program{"java", "@/opt/args"}},
		{"/usr/lib/jvm/java-17/bin/java", words("java -version"), Program{"java", ""}},

		// php
		{"/usr/bin/php8.2", words("php artisan queue:work"), Program{"php", "/srv/artisan"}},
		{"/usr/bin/php8.2", words("php -d memory_limit=1G -dx=y -c /etc/php.ini -n cron.php"), Program{"php", "/srv/cron.php"}},
		{"/usr/bin/php8.2", words("php --define x=y --php-ini=/x -f cron.php -- a"), Program{"php", "/srv/cron.php"}},
		{"/usr/bin/php8.2", []string{"php", "-r", "echo 1;"}, Program{"php", "-r"}},
		{"/usr/bin/php8.2", words("php -S 0.0.0.0:80 -t public"), Program{"php", "-S"}},
		{"/usr/bin/php8.2", words("php -S 0.0.0.0:80 -t public router.php"), Program{"php", "/srv/router.php"}},
		{"/usr/bin/php8.2", words("php -n -- x.php"), Program{"php", "-"}},
		{"/usr/bin/php-cgi8.2", words("php-cgi -b 9000"), Program{"php", ""}},
		{"/usr/sbin/php-fpm8.2", words("php-fpm --nodaemonize --fpm-config /etc/php-fpm.conf"), Program{"php", ""}},

		// perl
		{"/usr/bin/perl", words("perl -w -I x -Mstrict -T run.pl"), Program{"perl", "/srv/run.pl"}},
		{"/usr/bin/perl5.36-x86_64-linux-gnu", words("perl -CSD -d:NYTProf run.pl"), Program{"perl", "/srv/run.pl"}},
		{"/usr/bin/perl", []string{"perl", "-MLWP::Simple", "-lne", "print", "x"}, Program{"perl", "-e"}},
		{"/usr/bin/perl", []string{"perl", "-de1"}, Program{"perl", "-e"}},
		{"/usr/bin/perl", []string{"perl", "-i.bak", "-pE", "s/a/b/", "x"}, Program{"perl", "-E"}},
		{"/usr/bin/perl", words("perl -S ack x"), Program{"perl", "ack"}},

		// shells
		{"/usr/bin/bash", words("bash run.sh"), Program{"bash", "/srv/run.sh"}},
		{"/usr/bin/bash", words("bash -euxo pipefail run.sh a"), Program{"bash", "/srv/run.sh"}},
		{"/usr/bin/bash", words("bash -o pipefail -O extglob +x +o history run.sh"), Program{"bash", "/srv/run.sh"}},
		{"/usr/bin/bash", words("bash --norc --rcfile x -posix --login run.sh"), Program{"bash", "/srv/run.sh"}},
		{"/usr/bin/bash", []string{"bash", "-c", "curl http://169.254.169.254/"}, Program{"bash", "-c"}},
		{"/usr/bin/bash", []string{"bash", "-lc", "curl"}, Program{"bash", "-c"}},
		{"/usr/bin/bash", []string{"bash", "-euo", "pipefail", "-c", "curl"}, Program{"bash", "-c"}},
		{"/usr/bin/bash", words("-bash"), Program{"bash", ""}},
		{"/usr/bin/bash", words("bash -s stable"), Program{"bash", "-s"}},
		{"/usr/bin/dash", words("sh"), Program{"dash", ""}},
		{"/usr/bin/dash", words("/bin/sh - /etc/cron.daily/x"), Program{"dash", "/etc/cron.daily/x"}}, // of a #! line
		{"/usr/bin/dash", words("/bin/sh -e ./x"), Program{"dash", "/srv/x"}},
		{"/usr/bin/dash", words("sh -- -x"), Program{"dash", "/srv/-x"}},
		{"/usr/bin/zsh-5.9", words("zsh -f -o extendedglob --emulate sh run.zsh"), Program{"zsh", "/srv/run.zsh"}},
		{"/usr/bin/ksh93", words("ksh -o pipefail run.ksh"), Program{"ksh", "/srv/run.ksh"}},
		{"/bin/busybox", words("sh run.sh"), Program{"sh", "/srv/run.sh"}},
		{"/bin/busybox", words("/bin/sh /run.sh"), Program{"sh", "/run.sh"}},
		{"/bin/busybox", []string{"busybox", "sh", "-c", "wget"}, Program{"sh", "-c"}},
		{"/bin/busybox", words("-sh"), Program{"sh", ""}},
		{"/bin/busybox", words("wget http://169.254.169.254/"), Program{}},
		{"/bin/busybox.static", words("busybox wget -q x"), Program{}},

		// none of them
		{"/usr/bin/curl", words("python3 app.py"), Program{}},
		{"/usr/bin/python3-config", words("x y"), Program{}},
		{"/usr/bin/sh4re", words("x y"), Program{}},
		{"/usr/bin/node2vec", words("x y"), Program{}},
		{"", words("python3 app.py"), Program{}},
		{"/usr/bin/python3.11", nil, Program{"python", ""}},
		{"/usr/bin/python3.11", []string{"python3", "", "x"}, Program{"python", ""}},
		{"/usr/bin/python3.11", []string{"python3", "-W"}, Program{"python", ""}},
		{"/usr/bin/python3.11", []string{"python3", "-m"}, Program{"python", "-m"}},
		{"/usr/bin/python3.11", []string{"python3", "http://me:hunter2@x/y.py"}, Program{"python", "http://me:***@x/y.py"}},
	} {
		line := commandLine(test.args...)
		if test.args == nil {
			line = nil
		}
		if got := p.program(test.executable, line, false); got != test.want {
			t.Errorf("%s %q:\ngot  %q\nwant %q", test.executable, test.args, got, test.want)
		}
	}
}

// A script that was given relative is joined to the directory only where that may be the one it was
// started in.
func TestScriptOfDaemon(t *testing.T) {
	t.Parallel()
	proc := fakeProc(t.TempDir())
	for i, cwd := range []string{"/", "", "/gone (deleted)", "/" + strings.Repeat("x", maxExecutable)} {
		proc.put(t, fakeProcess{pid: i + 1, cwd: cwd})
		p := processAt(string(proc), i+1)
		if got := p.program("/usr/bin/perl", commandLine("perl", "run.pl"), false).Script; got != "run.pl" {
			t.Errorf("in %q: %q", cwd, got)
		}
	}
}

// The class path of a Java program is often longer than what is read of others' arguments.
func TestScriptBehindLongArguments(t *testing.T) {
	t.Parallel()
	proc := fakeProc(t.TempDir())
	for _, test := range []struct {
		jars int
		want string
	}{
		{100, "com.example.Main"},
		{5000, "com.example.Main"},
		{20000, ""}, // longer than one argument can be
	} {
		proc.put(t, fakeProcess{pid: 10, args: []string{"java", "-cp", strings.Repeat("/a.jar:", test.jars*3), "com.example.Main", "x"}})
		p := processAt(string(proc), 10)
		line, partial, err := p.commandLine(make([]byte, maxFile))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.program("/usr/bin/java", line, partial); got != (Program{"java", test.want}) {
			t.Errorf("%d jars: %+v", test.jars, got)
		}
	}
	long := commandLine("python3", "-W", strings.Repeat("x", maxLongLine), "-m", "app")
	if got := processAt(string(proc), 11).program("/usr/bin/python3", long[:maxCmdline], true); got != (Program{"python", ""}) {
		t.Errorf("of a process that is gone: %+v", got)
	}
	// A name that is cut is not a name.
	if got := findScript("java", []byte("java\x00com.example.Ma"), true); got.what != "" || !got.missing {
		t.Errorf("half a name: %+v", got)
	}
}

func FuzzProgram(f *testing.F) {
	f.Add("/usr/bin/python3", "python3\x00-W\x00x\x00-c\x00secret", false)
	f.Add("/bin/busybox", "busybox\x00sh\x00-euo\x00x\x00+o", true)
	f.Add("/usr/bin/node", "node\x00ts-node\x00-P\x00\xff\x1b", true)
	f.Fuzz(func(t *testing.T, executable, line string, partial bool) {
		got := process("/nowhere").program(executable, []byte(line), partial)
		if len(got.Script) > maxExecutable || !isPrintable(got.Script) || got.Interpreter == "" && got.Script != "" {
			t.Errorf("%+q", got)
		}
	})
}
