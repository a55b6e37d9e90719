package caller

import (
	"slices"
	"strings"
	"testing"
	"unsafe"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		args, out []string
	}{
		{"nothing secret", words("curl -s http://169.254.169.254/latest/meta-data/instance-id"), words("curl -s http://169.254.169.254/latest/meta-data/instance-id")},
		{"the path of tokens is none", words("curl -X PUT http://169.254.169.254/latest/api/token -v"), words("curl -X PUT http://169.254.169.254/latest/api/token -v")},
		{"nil", nil, nil},

		// options
		{"option =", words("a --password=hunter2 b"), words("a --password=*** b")},
		{"option = with blanks", []string{"a", "--password=hunter 2 x", "b"}, words("a --password=*** b")},
		{"option then value", words("a --password hunter2 b"), words("a --password *** b")},
		{"option then value with blanks", []string{"a", "--token", "one two", "b"}, words("a --token *** b")},
		{"option then value with a dash", words("a --token -hunter2 b"), words("a --token *** b")},
		{"boolean option before another", words("a --token --password hunter2 b"), words("a --token *** *** b")},
		{"one dash", words("keytool -storepass hunter2 -keypass=x"), words("keytool -storepass *** -keypass=***")},
		{"kinds of names", words("a --api-key k1 --apiKey=k2 --client_secret k3 --aws.secretAccessKey k4 --db-pwd=k5 --auth k6"),
			words("a --api-key *** --apiKey=*** --client_secret *** --aws.secretAccessKey *** --db-pwd=*** --auth ***")},
		{"java property", words("java -Djavax.net.ssl.keyStorePassword=x -jar a.jar"), words("java -Djavax.net.ssl.keyStorePassword=*** -jar a.jar")},
		{"about a secret, not one", words("a --password-file /run/pw --token-ttl-seconds 60 --password-stdin --secret-name db"),
			words("a --password-file /run/pw --token-ttl-seconds 60 --password-stdin --secret-name db")},
		{"author is not auth", words("git log --author=me --keys x"), words("git log --author=me --keys x")},

		// variables
		{"variable", words("env DB_PASSWORD=hunter2 PGPASSWORD=x MYSQL_PWD=y HOME=/root app"), words("env DB_PASSWORD=*** PGPASSWORD=*** MYSQL_PWD=*** HOME=/root app")},
		{"variable in an option", words("docker run -e AWS_SECRET_ACCESS_KEY=abc -eTOKEN=abc --env=API_KEY=abc img"), words("docker run -e AWS_SECRET_ACCESS_KEY=*** -eTOKEN=*** --env=API_KEY=*** img")},
		{"nested assignment", []string{"kubectl", "--from-literal=password=hun ter"}, []string{"kubectl", "--from-literal=password=***"}},
		{"connection string", []string{"app", "Server=db;Uid=sa;Pwd=x y;Database=z"}, []string{"app", "Server=db;Uid=sa;Pwd=***"}},
		{"json", []string{"app", `{"user": "me", "password": "hunter 2"}`}, []string{"app", `{"user": "me", "password": "***`}},
		{"json without blanks", []string{"app", `{"user":"me","password":"hunter2"}`}, []string{"app", `{"user":"me","password":"***`}},
		{"aws configure", words("aws configure set aws_secret_access_key abcd"), words("aws configure set aws_secret_access_key ***")},
		{"arn", words("aws x arn:aws:secretsmanager:us-east-1:123456789012:secret:db"), words("aws x arn:aws:secretsmanager:us-east-1:123456789012:secret:db")},

		// headers
		{"header of IMDSv2", []string{"curl", "-H", "X-aws-ec2-metadata-token: AQAEabc==", "http://x/"}, []string{"curl", "-H", "X-aws-ec2-metadata-token: ***", "http://x/"}},
		{"header joined", []string{"curl", "-HX-aws-ec2-metadata-token: AQAEabc==", "http://x/"}, []string{"curl", "-HX-aws-ec2-metadata-token: ***", "http://x/"}},
		{"header without blank", words("curl -HX-aws-ec2-metadata-token:abc http://x/"), words("curl -HX-aws-ec2-metadata-token:*** http://x/")},
		{"header of the lifetime", []string{"curl", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 21600"}, []string{"curl", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 21600"}},
		{"authorization", []string{"curl", "--header", "Authorization: Bearer abc def"}, []string{"curl", "--header", "Authorization: ***"}},
		{"authorization in an option", []string{"curl", "--header=authorization: Basic abc"}, []string{"curl", "--header=authorization: ***"}},
		{"cookie", []string{"curl", "-H", "Cookie: a=b; c=d"}, []string{"curl", "-H", "Cookie: ***"}},
		{"cookie option", words("curl -b sid=abc --cookie x=y z"), words("curl -b *** --cookie *** z")},
		{"harmless header", []string{"curl", "-H", "Accept: text/plain"}, []string{"curl", "-H", "Accept: text/plain"}},

		// logins
		{"url", words("git clone https://me:hunter2@example.com/r"), words("git clone https://me:***@example.com/r")},
		{"url with signs in the password", words("x https://me:p@ss/w#rd@example.com/r"), words("x https://me:***@example.com/r")},
		{"url with a token for a name", words("x https://0123456789abcdef01234@example.com/r"), words("x https://***@example.com/r")},
		{"url without password", words("x ssh://git@example.com:22/a@b"), words("x ssh://git@example.com:22/a@b")},
		{"port and at", words("x http://registry:8080/@scope/pkg"), words("x http://registry:8080/@scope/pkg")},
		{"two urls", words("x http://a:b@c,http://d:e@f"), words("x http://a:***@c,http://d:***@f")},
		{"without scheme", words("mongo me:hunter2@db:27017"), words("mongo me:***@db:27017")},
		{"image digest", words("docker pull nginx:1.2@sha256:abcd"), words("docker pull nginx:1.2@sha256:abcd")},
		{"curl -u", words("curl -u me:hunter2 -U a:b --user c:d --proxy-user=e:f x"), words("curl -u me:*** -U a:*** --user c:*** --proxy-user=e:*** x")},
		{"curl -u joined", words("curl -ume:hunter2 -sSu me:x -sume:x y"), words("curl -ume:*** -sSu me:*** -sume:*** y")},
		{"curl -u with blanks", []string{"curl", "-u", "me:hunter 2"}, []string{"curl", "-u", "me:***"}},
		{"-u without password", words("sudo -u root id"), words("sudo -u root id")},
		{"mysql", words("/usr/bin/mysql -uroot -phunter2 db"), words("/usr/bin/mysql -uroot -p*** db")},
		{"sshpass", words("sshpass -p hunter2 ssh -l me h"), words("sshpass -p *** ssh -l me h")},
		{"docker login", words("docker login -u me -p hunter2 reg"), words("docker login -u me -p *** reg")},
		{"a port is no password", words("docker run -p 8080:80 img"), words("docker run -p 8080:80 img")},
		{"redis", words("redis-cli -a hunter2 ping"), words("redis-cli -a *** ping")},
		{"query", words("curl http://h/p?a=1&token=abc&b=2&X-Amz-Signature=def&c=3"), words("curl http://h/p?a=1&token=***&b=2&X-Amz-Signature=***&c=3")},
		{"form", []string{"curl", "-d", "user=a&password=b c"}, []string{"curl", "-d", "user=a&password=***"}},

		// shapes
		{"access keys", words("x AKIAIOSFODNN7EXAMPLE k/ASIAIOSFODNN7EXAMPLE/z"), words("x *** k/***/z")},
		{"jwt", words("x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_-9"), words("x ***")},
		{"imds token", words("x AQAEAFyH0123456789012345678901234567890123456789abcdefg=="), words("x ***")},
		{"github", words("x ghp_0123456789abcdefghij0123456789abcdef"), words("x ***")},
		{"private key", []string{"x", "-----BEGIN RSA PRIVATE KEY-----\nMIIE abc\n"}, []string{"x", "***"}},
		{"private key in a script", []string{"sh", "-c", "ssh-add - <<E\n-----BEGIN PRIVATE KEY-----\nMIIEabc\nE"}, []string{"sh", "-c", `ssh-add - <<E\n***`}},
		{"blob after a name", words("vault login token 0123456789abcdef0123"), words("vault login token ***")},
		{"word after a name", words("kubectl get secret db"), words("kubectl get secret db")},
		{"bearer as a word", words("x Bearer 0123456789abcdef0123 y"), words("x Bearer *** y")},

		// scripts
		{"script with a variable", []string{"sh", "-c", `TOKEN=abc curl -s http://x/`}, []string{"sh", "-c", `TOKEN=*** curl -s http://x/`}},
		{"script with a header", []string{"bash", "-lc", `curl -H "X-aws-ec2-metadata-token: abc" http://169.254.169.254/`},
			[]string{"bash", "-lc", `curl -H "X-aws-ec2-metadata-token: ***" http://169.254.169.254/`}},
		{"script with single quotes", []string{"sh", "-c", `x --password 'hunter 2' y`}, []string{"sh", "-c", `x --password '***' y`}},
		{"script with escapes", []string{"sh", "-c", `x --password hunter\ 2 y`}, []string{"sh", "-c", `x --password *** y`}},
		{"script over two lines", []string{"sh", "-c", "x --password \\\n  hunter2 y"}, []string{"sh", "-c", `x --password \\n  *** y`}},
		{"script in a script", []string{"sh", "-c", `sh -c "curl -u 'me:hunter2' x"`}, []string{"sh", "-c", `sh -c "curl -u 'me:***' x"`}},
		{"script of the IMDSv2 call", []string{"sh", "-c", `T=$(curl -X PUT http://169.254.169.254/latest/api/token -H "X-aws-ec2-metadata-token-ttl-seconds: 60") && curl -H "X-aws-ec2-metadata-token: $T" http://169.254.169.254/`},
			[]string{"sh", "-c", `T=$(curl -X PUT http://169.254.169.254/latest/api/token -H "X-aws-ec2-metadata-token-ttl-seconds: 60") && curl -H "X-aws-ec2-metadata-token: ***" http://169.254.169.254/`}},
		{"python", []string{"python3", "-c", `password = "hunter 2"; print(1)`}, []string{"python3", "-c", `password = "***" print(1)`}},
		{"command over ssh", []string{"ssh", "host", "mysqldump --password hunter2 db"}, []string{"ssh", "host", "mysqldump --password *** db"}},
		{"option at a quote's end", []string{"x", "a --password", "hunter2"}, []string{"x", "a --password", "***"}},
		{"option before blanks", []string{"x", "a --password ", "hunter2"}, []string{"x", "a --password ", "***"}},

		// text
		{"line breaks and escapes", []string{"a\nb", "c\x1b[31md", "e\x00f", "g\u0085h", "i\u202ej"}, []string{`a\nb`, `c\x1b[31md`, `e\x00f`, `g\u0085h`, `i\u202ej`}},
		{"not UTF-8", []string{"a\xff\xfeb", "ä€"}, []string{"a\ufffd\ufffdb", "ä€"}},
		{"empty arguments", []string{"a", "", "b"}, []string{"a", "", "b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			before := slices.Clone(test.args)
			if got := Redact(test.args); !slices.Equal(got, test.out) {
				t.Errorf("got  %q\nwant %q", got, test.out)
			}
			if !slices.Equal(test.args, before) {
				t.Error("changed its argument")
			}
		})
	}
}

func words(s string) []string { return strings.Fields(s) }

func TestRedactCuts(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	mark := strings.Repeat("x", maxArg-len(cutMark)) + cutMark
	many := slices.Repeat([]string{"a"}, 32)

	for _, test := range []struct {
		name      string
		args, out []string
	}{
		{"exactly enough", []string{long[:maxArg]}, []string{long[:maxArg]}},
		{"one too long", []string{long}, []string{mark}},
		{"never through a rune", []string{strings.Repeat("x", 252) + "€€"}, []string{strings.Repeat("x", 252) + cutMark}},
		{"32 arguments", many, many},
		{"33 arguments", append(slices.Clone(many), "b"), append(slices.Repeat([]string{"a"}, 31), cutMark)},
		{"2 KiB exactly", slices.Repeat([]string{long[:maxArg]}, 8), slices.Repeat([]string{long[:maxArg]}, 8)},
		{"more than 2 KiB", slices.Repeat([]string{long}, 20), slices.Repeat([]string{mark}, 8)},
		{"a megabyte", []string{strings.Repeat("x", 1<<20)}, []string{mark}},
		{"the end of what is read", []string{strings.Repeat("x ", maxArgRead/2-3) + "AKIAIOSFODNN7EXAMPLE"}, []string{strings.Repeat("x ", 126) + "x" + cutMark}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := Redact(test.args); !slices.Equal(got, test.out) {
				t.Errorf("got  %q\nwant %q", got, test.out)
			}
		})
	}
}

// A command line that is read in part may end in the midst of a secret.
func TestRedactPartial(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ last, out string }{
		{"AKIA12345", cutMark},
		{"http://me:hun", cutMark},
		{"curl -u me:x AKIA12", "curl -u me:*** " + cutMark},
		{"--password=hunter2 x", cutMark},
		{strings.Repeat("x", 600), strings.Repeat("x", 253) + cutMark},
	} {
		if got := redact([]string{"a", test.last}, true); !slices.Equal(got, []string{"a", test.out}) {
			t.Errorf("%q: got %q, want %q", test.last, got[1], test.out)
		}
	}
}

// Scripts within scripts are followed for some levels and then hidden whole.
func TestRedactDeepScript(t *testing.T) {
	t.Parallel()
	script := "x --password " + planted + " y"
	for range 8 {
		checkRedacted(t, []string{"sh", "-c", script})
		script = "sh -c " + quoted([]string{script})[0]
	}
}

// planted is a secret in each of the places where one is known.
const planted = "q7Zp-PLANTED-19xw"

var plants = [][]string{
	{"--password=" + planted},
	{"--password", planted},
	{"--api-key", planted},
	{"DB_PASSWORD=" + planted},
	{"-H", "Authorization: Bearer " + planted},
	{"-HX-aws-ec2-metadata-token: " + planted},
	{"-H", "Cookie: a=b; c=" + planted},
	{"-u", "me:" + planted},
	{"https://me:" + planted + "@example.com/"},
	{"http://x/?a=b&token=" + planted},
	{"x-eyJ" + planted},
	{"sh", "-c", "curl -u me:" + planted},
	{"sh", "-c", "curl -H 'Authorization: Basic " + planted + "' x"},
	{"sh", "-c", "sh -c \"x --password '" + planted + "'\""},
}

func FuzzRedact(f *testing.F) {
	for i := range plants {
		f.Add(uint(i), "curl\x00-s", "http://169.254.169.254/\x00\x1b\xff", "set -e;")
	}
	f.Add(uint(1), "a\x00-c", "b", "'")
	f.Add(uint(7), "mysql\x00-p", "", `x="\`)
	f.Fuzz(func(t *testing.T, which uint, before, after, script string) {
		if strings.Contains(before+after+script, "PLANTED") {
			return // not where we put it
		}
		plant := plants[which%uint(len(plants))]
		args := slices.Concat(strings.Split(before, "\x00"), plant, strings.Split(after, "\x00"))
		checkRedacted(t, args)
		checkRedacted(t, []string{"sh", "-c", script + " " + strings.Join(quoted(plant), " ") + " " + after})
	})
}

func quoted(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		out[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return out
}

func checkRedacted(t *testing.T, args []string) {
	t.Helper()
	shown := Redact(args)
	size := 0
	for _, arg := range shown {
		size += len(arg)
		if len(arg) > maxArg {
			t.Errorf("%d bytes in one argument", len(arg))
		}
		if !isPrintable(arg) {
			t.Errorf("not printable: %q", arg)
		}
		if strings.Contains(arg, "PLANTED") {
			t.Errorf("a secret is shown: %q\nof %q", arg, args)
		}
	}
	if len(shown) > maxArgs || size > maxArgsText {
		t.Errorf("%d arguments of %d bytes", len(shown), size)
	}
}

func TestSideBySideIsACopy(t *testing.T) {
	t.Parallel()
	line := "nginx -c x"
	for _, words := range [][]string{{}, {line[:5]}, {line[:5], "", line[6:8]}} {
		for i, word := range sideBySide(slices.Clone(words)) {
			if word != words[i] || word != "" && unsafe.StringData(word) == unsafe.StringData(words[i]) {
				t.Errorf("%q is %q, of the same memory", words[i], word)
			}
		}
	}
}
