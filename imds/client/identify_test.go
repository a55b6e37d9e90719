package client

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/imds-bridge/imds-bridge/imds"
)

// The User-Agents are those that clients were seen to send; see the sources in the table.
func TestIdentify(t *testing.T) {
	t.Parallel()
	python, node, java := "/usr/bin/python3.9", "/usr/bin/node", "/usr/lib/jvm/java-11/bin/java"
	goLibraries := []Library{{Go, "github.com/aws/aws-sdk-go", "v1.19.0"}, {Go, "golang.org/x/sys", "v0.1.0"}}
	botocore := Library{PyPI, "botocore", "1.12.253"}
	for _, c := range []struct {
		name string
		in   Evidence
		want Client // without rows
	}{
		{"nothing", Evidence{}, Client{Name: "unknown"}},
		{"a stranger", Evidence{UserAgent: "x/1", Executable: "/opt/x"}, Client{Name: "unknown"}},
		{"a claim", Evidence{UserAgent: "aws-sdk-go/1.25.38 (go1.13; linux; amd64)"},
			Client{Name: "aws-sdk-go", Kind: SDK, Version: "1.25.38", Confidence: Claimed, From: FromUserAgent}},
		{"build info", Evidence{UserAgent: "aws-sdk-go/1.19.0 (go1.13; linux; amd64)", Executable: "/srv/app", Libraries: goLibraries},
			Client{Name: "aws-sdk-go", Kind: SDK, Version: "1.19.0", Confidence: Certain, From: FromUserAgent | FromLibrary}},
		{"build info against a lie of the version", Evidence{UserAgent: "aws-sdk-go/1.44.0 (go1.13; linux; amd64)", Executable: "/srv/app", Libraries: goLibraries},
			Client{Name: "aws-sdk-go", Kind: SDK, Version: "1.19.0", Confidence: Certain, From: FromUserAgent | FromLibrary, Contradiction: "User-Agent gives another version"}},
		{"build info against another SDK", Evidence{UserAgent: "Botocore/1.30.0", Executable: "/srv/app", Libraries: goLibraries},
			Client{Name: "aws-sdk-go", Kind: SDK, Version: "1.19.0", Confidence: Certain, From: FromLibrary, Contradiction: "User-Agent says botocore"}},
		{"build info against a curl", Evidence{UserAgent: "curl/7.61.1", Executable: "/srv/app", Libraries: goLibraries},
			Client{Name: "aws-sdk-go", Kind: SDK, Version: "1.19.0", Confidence: Certain, From: FromLibrary, Contradiction: "User-Agent says curl"}},
		{"other code than the SDK", Evidence{UserAgent: "Go-http-client/1.1", Executable: "/srv/app", Libraries: goLibraries},
			Client{Name: "go-http", Kind: HTTP, Confidence: Likely, From: FromUserAgent | FromExecutable, Contradiction: "aws-sdk-go is there, but does not say go-http"}},
		{"both Go SDKs, the User-Agent decides", Evidence{UserAgent: "aws-sdk-go-v2/1.17.1 os/linux lang/go#1.19 md/GOOS#linux md/GOARCH#amd64 ft/ec2imds", Executable: "/srv/app",
			Libraries: append(goLibraries, Library{Go, "github.com/aws/aws-sdk-go-v2", "v1.17.1"}, Library{Go, "github.com/aws/aws-sdk-go-v2/feature/ec2/imds", "v1.12.19"})},
			Client{Name: "aws-sdk-go-v2", Kind: SDK, Version: "1.17.1", Confidence: Certain, From: FromUserAgent | FromLibrary}},
		{"both Go SDKs, nothing decides", Evidence{Executable: "/srv/app", Libraries: append(goLibraries, Library{Go, "github.com/aws/aws-sdk-go-v2", "v1.17.1"})},
			Client{Name: "aws-sdk-go", Kind: SDK, Version: "1.19.0", Confidence: Guess, From: FromLibrary}},
		{"Boto3", Evidence{UserAgent: "Boto3/1.9.253 Python/3.6.8 Linux/4.14.138 Botocore/1.12.253", Executable: python},
			Client{Name: "boto3", Kind: SDK, Version: "1.9.253", Confidence: Likely, From: FromUserAgent | FromExecutable, SDK: "botocore", SDKVersion: "1.12.253"}},
		{"Boto3, loaded", Evidence{UserAgent: "Boto3/1.9.253 Python/3.6.8 Linux/4.14.138 Botocore/1.12.253", Executable: python, Libraries: []Library{botocore, {PyPI, "boto3", "1.9.253"}}},
			Client{Name: "boto3", Kind: SDK, Version: "1.9.253", Confidence: Certain, From: FromUserAgent | FromLibrary, SDK: "botocore", SDKVersion: "1.12.253"}},
		{"Boto3 by a botocore that knows tokens", Evidence{Kind: imds.TokenRequest, UserAgent: "Boto3/1.10.30 Python/3.6.8 Linux/4.14 Botocore/1.13.30", Executable: python, Libraries: []Library{{PyPI, "boto3", "1.10.30"}, {PyPI, "botocore", "1.13.30"}}},
			Client{Name: "boto3", Kind: SDK, Version: "1.10.30", Confidence: Certain, From: FromUserAgent | FromLibrary, SDK: "botocore", SDKVersion: "1.13.30"}},
		{"a token is none of an old Boto3's", Evidence{Kind: imds.TokenRequest, UserAgent: "python-requests/2.28.1", Executable: python, Libraries: []Library{{PyPI, "boto3", "1.9.253"}, botocore}},
			Client{Name: "python-requests", Kind: HTTP, Version: "2.28.1", Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"Boto 2 says Python-urllib", Evidence{UserAgent: "Python-urllib/2.7", Executable: "/usr/bin/python2.7", Libraries: []Library{{PyPI, "boto", "2.49.0"}, botocore}},
			Client{Name: "boto2", Kind: SDK, Version: "2.49.0", Confidence: Certain, From: FromLibrary}},
		{"a token is none of Boto 2's", Evidence{Kind: imds.TokenRequest, UserAgent: "Python-urllib/3.11", Executable: python, Libraries: []Library{{PyPI, "boto", "2.49.0"}}},
			Client{Name: "python-urllib", Kind: HTTP, Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"of two SDKs without a User-Agent, the one that knows tokens", Evidence{Kind: imds.V2, Executable: node, Libraries: []Library{{NPM, "aws-sdk", "2.400.0"}, {NPM, "@aws-sdk/credential-provider-node", "3.972.97"}}},
			Client{Name: "aws-sdk-js-v3", Kind: SDK, Version: "3.972.97", Confidence: Certain, From: FromLibrary}},
		{"ec2metadata beside Boto 2", Evidence{Kind: imds.V2, UserAgent: "Python-urllib/3.11", Executable: python, Script: "/usr/bin/ec2metadata", Libraries: []Library{{PyPI, "boto", "2.49.0"}}, Package: Package{"cloud-guest-utils", "0.33-1"}},
			Client{Name: "ec2metadata", Kind: Tool, Version: "0.33-1", Confidence: Certain, From: FromScript | FromPackage}},
		{"restic by MinIO's client", Evidence{Kind: imds.V2, UserAgent: "Go-http-client/1.1", Executable: "/usr/bin/x", Script: "github.com/restic/restic", Libraries: []Library{{Go, "github.com/restic/restic", "v0.16.0"}, {Go, "github.com/minio/minio-go/v7", "v7.0.61"}}},
			Client{Name: "restic", Kind: Tool, Version: "0.16.0", Confidence: Certain, From: FromLibrary, SDK: "minio-go", SDKVersion: "7.0.61"}},
		{"wget of byobu", Evidence{Kind: imds.V1, UserAgent: "Wget/1.21.3", Executable: "/usr/bin/wget", Parents: []string{"/usr/bin/timeout", "/usr/bin/byobu-status"}, Package: Package{"wget", "1.21.3-1"}},
			Client{Name: "byobu", Kind: Tool, Confidence: Guess, From: FromParent}},
		{"Python-urllib without Boto 2", Evidence{UserAgent: "Python-urllib/3.9", Executable: python},
			Client{Name: "python-urllib", Kind: HTTP, Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"requests beside botocore", Evidence{UserAgent: "python-requests/2.28.1", Executable: python, Libraries: []Library{botocore}},
			Client{Name: "python-requests", Kind: HTTP, Version: "2.28.1", Confidence: Likely, From: FromUserAgent | FromExecutable, Contradiction: "botocore is there, but does not say python-requests"}},
		{"a lie in another language", Evidence{UserAgent: "Botocore/1.13.40", Executable: java},
			Client{Name: "botocore", Kind: SDK, Version: "1.13.40", Confidence: Claimed, From: FromUserAgent, Contradiction: "the executable is java"}},
		{"two SDKs in one User-Agent", Evidence{UserAgent: "aws-sdk-php/3.100.0 aws-sdk-cpp/1.7.0"},
			Client{Name: "aws-sdk-php", Kind: SDK, Version: "3.100.0", Confidence: Claimed, From: FromUserAgent, Contradiction: "User-Agent names aws-sdk-cpp too"}},
		{"the command line, a script", Evidence{UserAgent: "aws-cli/1.16.102 Python/2.7.16 Linux/4.14 botocore/1.12.92", Executable: "/usr/bin/python2.7", Script: "/usr/bin/aws"},
			Client{Name: "aws-cli", Kind: CLI, Version: "1.16.102", Confidence: Likely, From: FromUserAgent | FromScript, SDK: "botocore", SDKVersion: "1.12.92"}},
		{"the command line, a program", Evidence{UserAgent: "aws-cli/2.9.19 Python/3.11.2 Linux/6.1 exe/x86_64", Executable: "/usr/local/aws-cli/v2/2.9.19/dist/aws"},
			Client{Name: "aws-cli", Kind: CLI, Version: "2.9.19", Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"Java 1.x", Evidence{UserAgent: "aws-sdk-java/1.11.515 Linux/4.14.97 OpenJDK_64-Bit_Server_VM/25.201-b09 java/1.8.0_201", Executable: java},
			Client{Name: "aws-sdk-java", Kind: SDK, Version: "1.11.515", Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"Java 2.x", Evidence{UserAgent: "aws-sdk-java/2.20.1", Executable: java},
			Client{Name: "aws-sdk-java-v2", Kind: SDK, Version: "2.20.1", Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"a jar of Java 1.x", Evidence{Executable: java, Libraries: []Library{{Maven, "com.amazonaws:aws-java-sdk-core", "1.11.515"}}},
			Client{Name: "aws-sdk-java", Kind: SDK, Version: "1.11.515", Confidence: Certain, From: FromLibrary}},
		{"JavaScript v2 without a User-Agent", Evidence{Executable: node, Libraries: []Library{{NPM, "aws-sdk", "2.1000.0"}}},
			Client{Name: "aws-sdk-js", Kind: SDK, Version: "2.1000.0", Confidence: Certain, From: FromLibrary}},
		{"Node without anything", Evidence{Executable: node}, Client{Name: "node", Kind: Runtime, Confidence: Guess, From: FromExecutable}},
		{"PHP", Evidence{UserAgent: "aws-sdk-php/3.112.9 GuzzleHttp/6.3.3 curl/7.61.1 PHP/7.2.19", Executable: "/usr/sbin/php-fpm8.2"},
			Client{Name: "aws-sdk-php", Kind: SDK, Version: "3.112.9", Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"Ruby", Evidence{UserAgent: "Ruby", Executable: "/usr/bin/ruby3.1"},
			Client{Name: "ruby-http", Kind: HTTP, Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"a gem of two majors", Evidence{Executable: "/usr/bin/ruby", Libraries: []Library{{RubyGems, "aws-sdk-core", "2.10.9"}}},
			Client{Name: "aws-sdk-ruby-v2", Kind: SDK, Version: "2.10.9", Confidence: Certain, From: FromLibrary}},
		{"curl", Evidence{UserAgent: "curl/7.61.1", Executable: "/usr/bin/curl"},
			Client{Name: "curl", Kind: HTTP, Version: "7.61.1", Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"curl of a package", Evidence{UserAgent: "curl/7.88.1", Executable: "/usr/bin/curl", Package: Package{"curl", "7.88.1-10+deb12u5"}},
			Client{Name: "curl", Kind: HTTP, Version: "7.88.1-10+deb12u5", Confidence: Certain, From: FromUserAgent | FromExecutable | FromPackage}},
		{"curl that says it is an SDK", Evidence{UserAgent: "aws-sdk-go/1.44.0", Executable: "/usr/bin/curl"},
			Client{Name: "curl", Kind: HTTP, Confidence: Guess, From: FromExecutable, Contradiction: "User-Agent says aws-sdk-go"}},
		{"Busybox's wget", Evidence{UserAgent: "Wget", Executable: "/bin/busybox"},
			Client{Name: "busybox", Kind: HTTP, Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"Busybox's wget of Alpine", Evidence{UserAgent: "Wget", Executable: "/bin/busybox", Package: Package{"busybox", "1.36.1-r29"}},
			Client{Name: "busybox", Kind: HTTP, Version: "1.36.1-r29", Confidence: Certain, From: FromUserAgent | FromExecutable | FromPackage}},
		{"Busybox's wget, a hard link", Evidence{UserAgent: "Wget", Executable: "/bin/wget"},
			Client{Name: "busybox", Kind: HTTP, Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"Busybox's wget of nobody", Evidence{UserAgent: "Wget"},
			Client{Name: "busybox", Kind: HTTP, Confidence: Claimed, From: FromUserAgent}},
		{"Busybox's shell", Evidence{Executable: "/bin/busybox", Script: "/x.sh"},
			Client{Name: "busybox", Kind: HTTP, Confidence: Guess, From: FromExecutable}},
		{"GNU wget that says what Busybox's does", Evidence{UserAgent: "Wget", Executable: "/usr/bin/wget", Package: Package{"wget", "1.21.3-1"}},
			Client{Name: "wget", Kind: HTTP, Version: "1.21.3-1", Confidence: Certain, From: FromExecutable | FromPackage, Contradiction: "User-Agent says busybox"}},
		{"Busybox that says what GNU wget does", Evidence{UserAgent: "Wget/1.21.3", Executable: "/bin/busybox"},
			Client{Name: "busybox", Kind: HTTP, Confidence: Guess, From: FromExecutable, Contradiction: "User-Agent says wget"}},
		{"curl of ec2-net-utils", Evidence{UserAgent: "curl/7.61.1", Executable: "/usr/bin/curl", Parents: []string{"/bin/bash", "/etc/sysconfig/network-scripts/ec2net-functions"}},
			Client{Name: "ec2-net-utils", Kind: Agent, Confidence: Guess, From: FromParent}},
		{"curl of a user's script", Evidence{UserAgent: "curl/7.61.1", Executable: "/usr/bin/curl", Parents: []string{"/var/lib/cloud/scripts/part-001", "/usr/bin/cloud-init"}},
			Client{Name: "curl", Kind: HTTP, Version: "7.61.1", Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"an agent of a package", Evidence{UserAgent: "Go-http-client/1.1", Executable: "/opt/datadog-agent/bin/agent/agent", Package: Package{"datadog-agent", "1:7.45.0-1"}},
			Client{Name: "datadog-agent", Kind: Agent, Version: "1:7.45.0-1", Confidence: Certain, From: FromExecutable | FromPackage}},
		{"another program called agent", Evidence{UserAgent: "Go-http-client/1.1", Executable: "/agent"},
			Client{Name: "go-http", Kind: HTTP, Confidence: Claimed, From: FromUserAgent}},
		{"an agent by its main module", Evidence{Executable: "/usr/local/bin/x", Script: "github.com/influxdata/telegraf", Libraries: []Library{{Go, "github.com/influxdata/telegraf", "v1.13.0"}, goLibraries[0]}},
			Client{Name: "telegraf", Kind: Agent, Version: "1.13.0", Confidence: Certain, From: FromLibrary, SDK: "aws-sdk-go", SDKVersion: "1.19.0"}},
		{"a main module with a major version", Evidence{Executable: "/controller", Script: "sigs.k8s.io/aws-load-balancer-controller/v3", Libraries: []Library{{Go, "github.com/aws/aws-sdk-go-v2", "v1.41.12"}}},
			Client{Name: "aws-load-balancer-controller", Kind: Agent, Confidence: Certain, From: FromLibrary, SDK: "aws-sdk-go-v2", SDKVersion: "1.41.12"}},
		{"a program that uses an agent's module", Evidence{Executable: "/usr/local/bin/x", Script: "example.com/x", Libraries: []Library{{Go, "github.com/prometheus/prometheus", "v0.35.0"}, goLibraries[0]}},
			Client{Name: "aws-sdk-go", Kind: SDK, Version: "1.19.0", Confidence: Certain, From: FromLibrary}},
		{"Terraform's plugin", Evidence{UserAgent: "APN/1.0 HashiCorp/1.0 Terraform/0.12.6 (+https://www.terraform.io) aws-sdk-go/1.23.0 (go1.12.6; linux; amd64)",
			Executable: "/x/.terraform/plugins/linux_amd64/terraform-provider-aws_v2.24.0_x4"},
			Client{Name: "terraform", Kind: Tool, Version: "0.12.6", Confidence: Likely, From: FromUserAgent | FromExecutable, SDK: "aws-sdk-go", SDKVersion: "1.23.0"}},
		{"cloud-init", Evidence{UserAgent: "Cloud-Init/22.4.2-0ubuntu0~20.04.2", Executable: "/usr/bin/python3.8", Script: "/usr/bin/cloud-init"},
			Client{Name: "cloud-init", Kind: Agent, Version: "22.4.2-0ubuntu0~20.04.2", Confidence: Likely, From: FromUserAgent | FromScript}},
		{"s3fs", Evidence{UserAgent: "s3fs/1.90 (commit hash 9d1552a; OpenSSL)", Executable: "/usr/bin/s3fs"},
			Client{Name: "s3fs", Kind: Tool, Version: "1.90", Confidence: Likely, From: FromUserAgent | FromExecutable}},
		{"awslogs is not the command line", Evidence{Executable: "/var/awslogs/bin/python2.7", Script: "/var/awslogs/bin/aws", Libraries: []Library{botocore}},
			Client{Name: "awslogs", Kind: Agent, Confidence: Guess, From: FromScript | FromLibrary, SDK: "botocore", SDKVersion: "1.12.253"}},
		{"SSM agent behind its SDK", Evidence{UserAgent: "aws-sdk-go/1.41.4 (go1.17; linux; amd64) amazon-ssm-agent/3.1.1927.0", Executable: "/usr/bin/amazon-ssm-agent"},
			Client{Name: "amazon-ssm-agent", Kind: Agent, Version: "3.1.1927.0", Confidence: Likely, From: FromUserAgent | FromExecutable, SDK: "aws-sdk-go", SDKVersion: "1.41.4"}},
		{"PowerShell", Evidence{UserAgent: "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1.17763.316"},
			Client{Name: "powershell", Kind: HTTP, Version: "5.1.17763.316", Confidence: Claimed, From: FromUserAgent}},
	} {
		got := Identify(c.in)
		got.row, got.sdk = nil, nil
		if got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

func TestKeep(t *testing.T) {
	t.Parallel()
	all := []Library{
		{Go, "golang.org/x/sys", "v0.1.0"}, {Go, "github.com/aws/aws-sdk-go", "v1.19.0"},
		{PyPI, "Boto3", "1.9.253"}, {Maven, "com.amazonaws:aws-java-sdk-core", "1.11.515"}, {"", "botocore", "1"},
		{NPM, "aws-sdk", "2.0\x1b"},
	}
	want := []Library{
		{Go, "github.com/aws/aws-sdk-go", "1.19.0"}, {PyPI, "Boto3", "1.9.253"},
		{Maven, "com.amazonaws:aws-java-sdk-core", "1.11.515"}, {NPM, "aws-sdk", ""},
	}
	if got := Keep(all); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	for range 10 {
		all = append(all, all...)
	}
	if got := Keep(all); len(got) > maxKept {
		t.Errorf("%d kept", len(got))
	}
}

func TestSpeaksV2(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   Evidence
		want Answer
	}{
		{Evidence{}, Perhaps},
		{Evidence{UserAgent: "curl/7.61.1"}, Perhaps},
		{Evidence{UserAgent: "aws-sdk-go/1.25.37"}, No},
		{Evidence{UserAgent: "aws-sdk-go/1.25.38"}, Yes},
		{Evidence{UserAgent: "aws-sdk-go"}, Perhaps},
		{Evidence{UserAgent: "aws-sdk-java/1.11.677"}, No},
		{Evidence{UserAgent: "aws-sdk-java/2.10.21"}, Yes},
		{Evidence{UserAgent: "aws-sdk-ruby2/2.11.400"}, No},
		{Evidence{UserAgent: "aws-sdk-rust/0.1.0"}, Yes},
		{Evidence{UserAgent: "aws-sdk-dotnet-coreclr/3.3.107.40"}, Perhaps},
		{Evidence{UserAgent: "aws-sdk-dotnet-coreclr/3.5.0"}, Yes},
		{Evidence{UserAgent: "aws-sdk-dotnet-45/3.1.0"}, No},
		{Evidence{Libraries: []Library{{PyPI, "boto", "2.49.0"}}}, No},
		{Evidence{UserAgent: "Boto3/1.12.6 Botocore/1.15.6"}, Yes},
		{Evidence{UserAgent: "Boto3/1.12.5"}, No},
		{Evidence{UserAgent: "Boto3/1.10.25 Botocore/1.13.25"}, Yes},
		{Evidence{UserAgent: "Boto3/1.10.24 Botocore/1.13.24"}, No},
		{Evidence{UserAgent: "Boto3 Botocore/1.13.25"}, Yes},
		{Evidence{UserAgent: "Boto3/1.12.6 Botocore"}, Yes},
		{Evidence{UserAgent: "Boto3/1.10.30", Libraries: []Library{{PyPI, "boto3", "1.10.30"}, {PyPI, "botocore", "1.13.30"}}}, Yes},
		{Evidence{UserAgent: "aws-cli/1.16.288 botocore/1.13.24"}, No},
		{Evidence{UserAgent: "aws-cli/1.16.288 botocore/1.13.25"}, Yes},
		{Evidence{UserAgent: "aws-cli/1.16.289"}, Yes},
		{Evidence{UserAgent: "aws-cli/1.16.288"}, No},
		{Evidence{Executable: "/usr/local/bin/aws", UserAgent: "aws-cli/2.9.19", Libraries: []Library{{PyPI, "botocore", "1.12.0"}}}, Yes},
		{Evidence{Package: Package{"datadog-agent", "1:7.45.0-1"}}, IfAllowed},
		{Evidence{Package: Package{"datadog-agent", "1:7.64.0-1"}}, Yes},
		{Evidence{Executable: "/usr/bin/datadog-agent"}, IfAllowed},
		{Evidence{Package: Package{"fluent-bit", "1.8.7"}}, No},
		{Evidence{Package: Package{"prometheus", "2.42.0+ds-5"}}, Yes},
		{Evidence{Package: Package{"prometheus", "2.15.0"}}, Perhaps},
		{Evidence{Package: Package{"prometheus", "2.15.0"}, Libraries: []Library{{Go, "github.com/aws/aws-sdk-go", "v1.23.0"}}}, No},
		{Evidence{Package: Package{"prometheus", "2.16.0"}, Libraries: []Library{{Go, "github.com/aws/aws-sdk-go", "v1.29.0"}}}, Yes},
		{Evidence{Executable: "/usr/bin/consul", Libraries: []Library{{Go, "github.com/aws/aws-sdk-go", "v1.23.0"}}}, No},
		{Evidence{Executable: "/usr/bin/consul"}, Perhaps},
	} {
		if got := Identify(c.in).SpeaksV2(); got != c.want {
			t.Errorf("%+v speaks v2: %s, want %s", c.in, got, c.want)
		}
	}
}

// What others chose is long, dirty or many, and comes out short, clean and quickly.
func TestIdentifyIsBounded(t *testing.T) {
	t.Parallel()
	many := make([]Library, 100_000)
	for i := range many {
		many[i] = Library{Go, strings.Repeat("x", i%2000), strings.Repeat("9", 1000)}
	}
	for name, e := range map[string]Evidence{
		"10 KiB":           {UserAgent: strings.Repeat("aws-sdk-go/1.19.0 ", 600)},
		"one product":      {UserAgent: strings.Repeat("a", 10<<10)},
		"a long version":   {UserAgent: "curl/" + strings.Repeat("7.", 5<<10)},
		"control":          {UserAgent: "curl/7.1\x1b[31m\r\nX: y\x00", Executable: "/usr/bin/curl\n", Script: "\x00"},
		"brackets":         {UserAgent: strings.Repeat("(", 10<<10) + "curl/7"},
		"nested":           {UserAgent: "curl/7 ((a) b) (c"},
		"not UTF-8":        {UserAgent: "aws-cli/\xff\xfe \xc0\xaf/1", Executable: "\xff", Package: Package{"\xff", "\xff"}},
		"slashes":          {UserAgent: strings.Repeat("/", 4096), Executable: strings.Repeat("/", 4096)},
		"libraries":        {Libraries: many},
		"parents":          {Executable: "/bin/sh", Parents: make([]string, 100_000)},
		"long paths":       {Executable: strings.Repeat("/curl", 4096), Script: strings.Repeat("x", 1<<20)},
		"version of a lib": {Libraries: []Library{{PyPI, "botocore", "1.0\n\x1b]0;x"}}},
	} {
		c := Identify(e)
		for _, s := range []string{c.Name, c.Version, c.SDK, c.SDKVersion, c.Contradiction, c.Title()} {
			if len(s) > 120 || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Errorf("%s: %q", name, s)
			}
		}
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add("Boto3/1.9.253 Python/3.6.8 Botocore/1.12.253", "/usr/bin/python3", "/usr/bin/aws", "pypi", "boto", "2.49.0")
	f.Add("aws-sdk-go/1.19.0 (go1.13; linux", "/x_v1", "a:b", "maven", "a:b:c", "1:2")
	f.Add("(;,/ /", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, agent, executable, script, ecosystem, library, version string) {
		c := Identify(Evidence{
			UserAgent: agent, Executable: executable, Script: script, Parents: []string{script},
			Libraries: []Library{{ecosystem, library, version}, {PyPI, "botocore", version}}, Package: Package{library, version},
		})
		if row, found := Lookup(c.Name); found && row.Kind != c.Kind || !found && c.Name != "unknown" {
			t.Fatalf("name %q, kind %s", c.Name, c.Kind)
		}
		if len(c.Version) > maxVersion || len(c.SDKVersion) > maxVersion || len(c.Contradiction) > 120 || !utf8.ValidString(c.Version) {
			t.Fatalf("%+v", c)
		}
		c.SpeaksV2()
	})
}
