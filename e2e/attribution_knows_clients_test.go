package e2e

import (
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// speaker is a program that calls the metadata service by itself, and what is to be said of it.
type speaker struct {
	client  // as an operator starts it
	env     []string
	call    string // v1 or v2
	name    string // of the client
	version string
	sure    string // the confidence
	v2      string // speaks_v2
	atFirst string // what it may be taken for before its files were looked at, besides its name
	pkg     string // of Debian, that the caller belongs to; "" if that depends on the machine
	script  string // the end of its path
	code    string // the advice; none where it speaks v2
	text    string
	link    string // the end of it
}

// Programs of Debian and libraries of Debian, npm and Go modules, started as an operator would, are
// told by name and version, with what is to be done. Most of them end at once: what their first run set
// off is told of the next.
func TestAttributionKnowsClients(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
	b := i.startBridge(t, bridgeOptions{flags: []string{"--attribution.docker=", "--attribution.cri=", "--attribution.ecs=off", "--attribution.kubernetes=off"}})
	for name, of := range speakers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := of(t)
			line := i.hear(t, b, s)
			if line.By.Name != s.name || line.By.Version != s.version || line.By.Confidence != s.sure || line.By.SpeaksV2 != s.v2 {
				t.Errorf("client: want %s %s, %s, speaks v2: %s: %s", s.name, s.version, s.sure, s.v2, line.raw)
			}
			if s.pkg != "" && (line.Caller.Package.Manager != "dpkg" || line.Caller.Package.Name != s.pkg || line.Caller.Package.Version != debianVersion(t, s.pkg)) {
				t.Errorf("package: want %s %s: %s", s.pkg, debianVersion(t, s.pkg), line.raw)
			}
			if !strings.HasSuffix(line.Caller.Script, s.script) || (line.Caller.Script == "") != (s.script == "") {
				t.Errorf("script: want …%s: %s", s.script, line.raw)
			}
			if line.Advice.Code != s.code || line.Advice.Text != s.text || !strings.HasSuffix(line.Advice.Link, s.link) || (line.Advice.Link == "") != (s.link == "") {
				t.Errorf("advice: want %s, %q, …%s: %s", s.code, s.text, s.link, line.raw)
			}
		})
	}
}

// hear runs a program until a line of the log has all that is to be known of it, and checks that those
// before it had less and nothing wrong.
func (i *instance) hear(t *testing.T, b *bridge, s speaker) (told attributed) {
	t.Helper()
	var last ended
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		before := len(b.log())
		cmd := s.command()
		cmd.Env = append(cmd.Env, s.env...)
		last = finish(t, i.Host().Start, cmd)
		time.Sleep(100 * time.Millisecond) // lines are written behind the answers
		_, ok := b.findAfter(t, before, func(a attributed) bool {
			if !descends(a, last.Process.Pid) {
				return false
			}
			if a.By.Name != s.name && a.By.Name != s.atFirst {
				t.Errorf("taken for %s: %s", a.By.Name, a.raw)
			}
			told = a
			return a.record.Version == s.call && (a.Caller.Package.Name != "" || strings.Contains(a.By.From, "library")) && a.By.Name == s.name
		})
		if ok || t.Failed() {
			return told
		}
	}
	t.Fatalf("%v: not told of: %v, standard error:\n%s\nthe last line: %s", s.args, last.err, last.stderr, told.raw)
	return told
}

// descends tells whether a process, or what it was started by, made a call.
func descends(a attributed, pid int) bool {
	of := a.record.Caller
	return of.PID == pid || slices.ContainsFunc(of.Ancestors, func(p struct {
		PID  int
		Comm string
		Exe  string
	}) bool {
		return p.PID == pid
	})
}

const (
	minimumVersions = "/use-a-supported-sdk-version-for-imdsv2.html"
)

// speakers are started in a directory of their own where they need one.
var speakers = map[string]func(*testing.T) speaker{
	"s3cmd": func(t *testing.T) speaker {
		return speaker{
			client: client{args: []string{"/usr/bin/s3cmd", "ls", "--config=/dev/null", "--host=127.0.0.1:1"}},
			call:   "v2", name: "s3cmd", version: lastWord(t, "/usr/bin/s3cmd", "--version"), sure: "certain", v2: "yes", pkg: "s3cmd", script: "/usr/bin/s3cmd",
		}
	},
	"ec2metadata": func(t *testing.T) speaker {
		return speaker{
			client: client{args: []string{"/usr/bin/ec2metadata", "--instance-id"}},
			call:   "v2", name: "ec2metadata", version: debianVersion(t, "cloud-guest-utils"), sure: "certain", v2: "yes", pkg: "cloud-guest-utils", script: "/usr/bin/ec2metadata",
		}
	},
	"the AWS CLI": func(t *testing.T) speaker {
		_, version, _ := strings.Cut(strings.Fields(output(t, "/usr/bin/aws", "--version"))[0], "/")
		return speaker{
			client: client{args: []string{"/usr/bin/aws", "configure", "list"}},
			call:   "v2", name: "aws-cli", version: version, sure: "certain", v2: "yes", pkg: "awscli", script: "/usr/bin/aws",
		}
	},
	"the ECR credential helper": func(t *testing.T) speaker {
		return speaker{
			client: client{args: []string{"sh", "-c", "echo 123456789012.dkr.ecr.eu-west-1.amazonaws.com | docker-credential-ecr-login get"}},
			env:    []string{"HOME=" + t.TempDir()},
			call:   "v2", name: "ecr-credential-helper", version: debianVersion(t, "amazon-ecr-credential-helper"), sure: "certain", v2: "yes", pkg: "amazon-ecr-credential-helper",
		}
	},
	// This one speaks v2 for all but the role's name, which it fetches first.
	"s3fs": func(t *testing.T) speaker {
		version := debianVersion(t, "s3fs")
		return speaker{
			client: client{args: []string{"/usr/bin/s3fs", "-f", "bucket", t.TempDir(), "-o", "iam_role=auto,url=http://127.0.0.1:1,retries=1"}},
			call:   "v1", name: "s3fs", version: version, sure: "certain", v2: "unknown", pkg: "s3fs",
			code: "upgrade", text: "upgrade s3fs from " + version + " to >= 1.91", link: "/s3fs-fuse/releases",
		}
	},
	"byobu": func(t *testing.T) speaker {
		dir := t.TempDir()
		for name, text := range map[string]string{"status": "tmux_left=hostname\n", ".metadata_available": "yes\n", "cache.tmux/hostname": ""} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return speaker{
			client: client{args: []string{"sh", "-c", "rm -rf $BYOBU_CONFIG_DIR/.last.tmux; byobu-status tmux_left; sleep 1"}},
			env:    []string{"BYOBU_BACKEND=tmux", "BYOBU_CONFIG_DIR=" + dir, "BYOBU_RUN_DIR=" + dir},
			call:   "v1", name: "byobu", sure: "guess", v2: "no", atFirst: "wget", pkg: "wget",
			code: "rewrite", text: "if this is Byobu: take hostname and ip_address out of Byobu's status (byobu-config): they ask by wget, without a token", link: "www.byobu.org/documentation",
		}
	},
	"Boto 2": func(t *testing.T) speaker {
		return speaker{
			client: client{args: []string{debianPython, "clients/boto2/credentials.py"}},
			call:   "v1", name: "boto2", version: boto2Version(t), sure: "guess", v2: "no", atFirst: "python-urllib", script: "/boto2/credentials.py",
			code: "rewrite", text: "if this is Boto 2: replace Boto 2 by Boto3 1.12.6 or later: no release of it speaks v2", link: "boto3.amazonaws.com/v1/documentation/api/latest/guide/migration.html",
		}
	},
	"Boto3": func(t *testing.T) speaker {
		return speaker{
			client: client{args: []string{debianPython, "clients/boto3/credentials.py"}},
			call:   "v2", name: "boto3", version: output(t, debianPython, "-c", "import boto3; print(boto3.__version__)"), sure: "likely", v2: "yes", script: "/boto3/credentials.py",
		}
	},
	"the AWS SDK for Ruby": func(t *testing.T) speaker {
		return speaker{
			client: client{args: []string{"/usr/bin/ruby", "clients/sdk-ruby/credentials.rb"}},
			call:   "v2", name: "aws-sdk-ruby", version: output(t, "/usr/bin/ruby", "-raws-sdk-core", "-e", "puts Aws::CORE_GEM_VERSION"), sure: "likely", v2: "yes", script: "/sdk-ruby/credentials.rb",
		}
	},
	"the AWS SDK for JavaScript v2": func(t *testing.T) speaker {
		dir := installed(t, "sdk-js")
		version := npmVersion(t, dir, "aws-sdk")
		return speaker{
			client: client{args: []string{"node", "credentials.js"}, dir: dir},
			call:   "v1", name: "aws-sdk-js", version: version, sure: "likely", v2: "no", script: "/credentials.js",
			code: "upgrade", text: "upgrade AWS SDK for JavaScript v2 from " + version + " to >= 2.722.0", link: minimumVersions,
		}
	},
	"the AWS SDK for JavaScript v3": func(t *testing.T) speaker {
		dir := installed(t, "sdk-js-v3")
		return speaker{
			client: client{args: []string{"node", "credentials.js"}, dir: dir},
			call:   "v2", name: "aws-sdk-js-v3", version: npmVersion(t, dir, "@aws-sdk/credential-provider-node"), sure: "guess", v2: "yes", atFirst: "node", script: "/credentials.js",
		}
	},
	"awscred": func(t *testing.T) speaker {
		dir := installed(t, "awscred")
		return speaker{
			client: client{args: []string{"node", "credentials.js"}, dir: dir},
			call:   "v1", name: "awscred", version: npmVersion(t, dir, "awscred"), sure: "guess", v2: "no", atFirst: "node", script: "/credentials.js",
			code: "rewrite", text: "if this is awscred: replace awscred by @aws-sdk/credential-providers: no release of it speaks v2", link: "/setting-credentials-node.html",
		}
	},
	"the AWS SDK for Go v1": func(t *testing.T) speaker {
		version := goVersion(t, sdkGoV1(t), "github.com/aws/aws-sdk-go")
		return speaker{
			client: client{args: []string{sdkGoV1(t)}},
			call:   "v1", name: "aws-sdk-go", version: version, sure: "certain", v2: "no",
			code: "upgrade", text: "upgrade AWS SDK for Go v1 from " + version + " to >= 1.25.38", link: minimumVersions,
		}
	},
	"the AWS SDK for Go v2": func(t *testing.T) speaker {
		return speaker{
			client: client{args: []string{sdkGoV2(t)}},
			call:   "v2", name: "aws-sdk-go-v2", version: goVersion(t, sdkGoV2(t), "github.com/aws/aws-sdk-go-v2"), sure: "certain", v2: "yes",
		}
	},
}

// debianVersion is that of an installed package, as dpkg shows it.
func debianVersion(t *testing.T, name string) string {
	t.Helper()
	return output(t, "dpkg-query", "--show", "--showformat=${Version}", name)
}

// npmVersion is what a package says of itself where npm put it.
func npmVersion(t *testing.T, dir, name string) string {
	t.Helper()
	var description struct{ Version string }
	text, err := os.ReadFile(filepath.Join(dir, "node_modules", name, "package.json"))
	if err == nil {
		err = json.Unmarshal(text, &description)
	}
	if err != nil {
		t.Fatal(err)
	}
	return description.Version
}

// goVersion is that of a module in a program.
func goVersion(t *testing.T, program, module string) string {
	t.Helper()
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, dependency := range info.Deps {
		if dependency.Path == module {
			return strings.TrimPrefix(dependency.Version, "v")
		}
	}
	t.Fatalf("%s is without %s", program, module)
	return ""
}

// output is what a command says of itself.
func output(t *testing.T, args ...string) string {
	t.Helper()
	cmd := client{args: args}.command()
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}

func lastWord(t *testing.T, args ...string) string {
	t.Helper()
	words := strings.Fields(output(t, args...))
	return words[len(words)-1]
}

// installed is a directory with a client of clients/ and what npm installs for it.
func installed(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("clients", name))); err != nil {
		t.Fatal(err)
	}
	install := exec.Command("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm install: %v\n%s", err, out)
	}
	return dir
}
