package client

import (
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/imds-bridge/imds-bridge/imds"
)

func TestAdvise(t *testing.T) {
	t.Parallel()
	const boto3Agent = "Boto3/1.10.30 Python/3.6.8 Linux/4.14 Botocore/1.13.30"
	boto3By := func(boto3, botocore string) []Library {
		return []Library{{PyPI, "boto3", boto3}, {PyPI, "botocore", botocore}}
	}
	v1 := Seen{Kind: imds.V1, Path: instanceID}
	container := Seen{Kind: imds.V1, Path: instanceID, OtherNetwork: true}
	after := func(play func(*calls)) Seen {
		h := newCalls()
		play(h)
		return Seen{Kind: imds.V1, Path: instanceID, History: &h.History}
	}
	hopLimit := after(func(c *calls) { c.token(200, false, 0, true); c.container(instanceID) })
	slow := after(func(c *calls) { c.token(0, false, 2*time.Second, false); c.get(imds.V1, instanceID) })
	refused := after(func(c *calls) { c.token(403, true, 0, false); c.get(imds.V1, instanceID) })
	granted := after(func(c *calls) { c.token(200, true, 0, false); c.get(imds.V1, instanceID) })
	v2 := Seen{Kind: imds.V2, Path: instanceID}
	for _, c := range []struct {
		name string
		who  Evidence
		seen Seen
		code Code
		text string // in it
	}{
		{"v1 alone", Evidence{UserAgent: "aws-sdk-go/1.19.0"}, v1, Upgrade, "upgrade AWS SDK for Go v1 from 1.19.0 to >= 1.25.38"},
		{"v1 alone in a container", Evidence{UserAgent: "aws-sdk-go/1.19.0"}, container, Upgrade, ">= 1.25.38"},
		{"v1 alone after somebody's PUT", Evidence{UserAgent: "aws-sdk-go/1.19.0"}, hopLimit, Upgrade, ">= 1.25.38"},
		{"no version", Evidence{UserAgent: "aws-sdk-go"}, v1, Upgrade, "upgrade AWS SDK for Go v1 to >= 1.25.38"},
		{"ruby 2", Evidence{UserAgent: "aws-sdk-ruby2/2.10.9"}, v1, Upgrade, "from 2.10.9 to >= 2.11.401"},
		{"never", Evidence{Libraries: []Library{{PyPI, "boto", "2.49.0"}}}, v1, Rewrite, "replace Boto 2 by Boto3"},
		{"kiam", Evidence{Executable: "/kiam"}, v1, Rewrite, "IAM roles for service accounts"},
		{"kube2iam passes on", Evidence{Executable: "/x", Script: "github.com/jtblin/kube2iam", Libraries: []Library{{Go, "github.com/jtblin/kube2iam", "v0.13.0"}}}, v1, NotKnown, "find the pod"},
		{"curl", Evidence{UserAgent: "curl/7.61.1", Executable: "/usr/bin/curl"}, v1, ReplaceCurl, "two commands"},
		{"wget", Evidence{UserAgent: "Wget/1.15 (linux-gnu)"}, v1, ReplaceCurl, "two commands: one"},
		{"wget without --method", Evidence{UserAgent: "Wget/1.14 (linux-gnu)"}, v1, ReplaceCurl, "two commands of curl (wget 1.14 cannot send a PUT)"},
		{"wget of Alpine", Evidence{UserAgent: "Wget", Executable: "/bin/busybox", Package: Package{"busybox", "1.36.1-r29"}}, v1, Rewrite, "use curl or GNU wget"},
		{"wget of nobody's Busybox", Evidence{UserAgent: "Wget"}, v1, Rewrite, "use curl or GNU wget"},
		{"a shell of Busybox", Evidence{Executable: "/bin/busybox", Script: "/x.sh"}, v1, Rewrite, "if this is Busybox: use curl or GNU wget"},
		{"own code", Evidence{UserAgent: "python-requests/2.28.1"}, v1, Rewrite, "fetch a token first"},
		{"interpreter", Evidence{Executable: "/usr/bin/node"}, v1, Rewrite, "a Node.js program"},
		{"datadog", Evidence{Package: Package{"datadog-agent", "1:7.45.0-1"}}, v1, PreferV2, "ec2_prefer_imdsv2: true"},
		{"datadog that may, but fell back", Evidence{Package: Package{"datadog-agent", "1:7.45.0-1"}}, hopLimit, RaiseHops, "HttpPutResponseHopLimit"},
		{"by its SDK", Evidence{Executable: "/usr/bin/consul", Libraries: []Library{{Go, "github.com/aws/aws-sdk-go", "v1.23.0"}}}, v1, Upgrade, "a release with AWS SDK for Go v1 >= 1.25.38, this one has 1.23.0"},
		{"by an SDK that is not known", Evidence{Executable: "/usr/bin/consul"}, v1, Upgrade, "upgrade Consul to a release with an AWS SDK of 2020 or later"},
		{"a fix without a release", Evidence{Executable: "/cluster-autoscaler"}, v1, Upgrade, "#4127"},
		{"hop limit", Evidence{UserAgent: "Boto3/1.26.0 Botocore/1.29.0"}, hopLimit, RaiseHops, "HttpPutResponseHopLimit to 2"},
		{"hop limit of somebody", Evidence{}, hopLimit, RaiseHops, "the client speaks v2"},
		{"hop limit of a plain client", Evidence{UserAgent: "Go-http-client/1.1"}, hopLimit, RaiseHops, "HttpPutResponseHopLimit"},
		{"slow token", Evidence{UserAgent: "aws-sdk-go/1.44.0"}, slow, FixToken, "within a second"},
		{"refused token", Evidence{UserAgent: "aws-sdk-go/1.44.0"}, refused, FixToken, "refused"},
		{"v2 and v1 in one process", Evidence{UserAgent: "aws-sdk-go/1.44.0"}, granted, NotKnown, "something else in the same process"},
		{"fell back before", Evidence{UserAgent: "aws-sdk-go/1.44.0"}, v1, FixToken, "restart it, with AWS_EC2_METADATA_V1_DISABLED=true (releases from 2024 on)"},
		{"no token request was seen, in a container", Evidence{UserAgent: "aws-sdk-go/1.44.0"}, container, FixToken, "restart it and watch for that; only if no token comes back, see to the hop limit"},
		{"Boto3 by a botocore that can", Evidence{UserAgent: boto3Agent, Libraries: boto3By("1.10.30", "1.13.30")}, v1, FixToken, "Boto3 1.10.30 speaks v2"},
		{"Boto3 by a botocore that can, but fell back", Evidence{UserAgent: boto3Agent, Libraries: boto3By("1.10.30", "1.13.30")}, hopLimit, RaiseHops, "HttpPutResponseHopLimit to 2"},
		{"Boto3 by a botocore that cannot", Evidence{Libraries: boto3By("1.10.10", "1.13.10")}, hopLimit, Upgrade, "upgrade Boto3 from 1.10.10 to >= 1.12.6"},
		{"Boto3 beside a botocore too old for it", Evidence{Libraries: boto3By("1.26.0", "1.12.253")}, v1, Upgrade, "upgrade botocore from 1.12.253 to >= 1.13.25: Boto3 calls by it"},
		{"Boto3 alone", Evidence{UserAgent: "Boto3/1.10.30"}, v1, Upgrade, "upgrade Boto3 from 1.10.30 to >= 1.12.6"},
		{"a tool fell back before", Evidence{UserAgent: "s3fs/1.91"}, v1, FixToken, "restart it"},
		{"v2", Evidence{UserAgent: "aws-sdk-go/1.44.0"}, v2, DisableV1, "AWS_EC2_METADATA_V1_DISABLED=true"},
		{"v2 by a tool", Evidence{UserAgent: "Terraform/1.0 aws-sdk-go/1.44.0"}, v2, DisableV1, "AWS_EC2_METADATA_V1_DISABLED=true"},
		{"v2 by what never falls back", Evidence{UserAgent: "aws-sdk-rust/0.55.3"}, v2, NoneNeeded, "v2 already"},
		{"v2 by hand", Evidence{UserAgent: "curl/7.61.1"}, v2, NoneNeeded, "v2 already"},
		{"token", Evidence{}, Seen{Kind: imds.TokenRequest}, NoneNeeded, "v2 already"},
		{"another cloud", Evidence{}, Seen{Kind: imds.NotAWS}, NoneNeeded, "no call that"},
		{"nobody", Evidence{}, v1, NotKnown, "find the code"},
	} {
		a := Advise(Identify(c.who), c.seen)
		if a.Code != c.code || !strings.Contains(a.Text, c.text) {
			t.Errorf("%s: %s %q, want %s %q", c.name, a.Code, a.Text, c.code, c.text)
		}
		if u, err := url.Parse(a.Link); err != nil || u.Scheme != "https" {
			t.Errorf("%s: link %q", c.name, a.Link)
		}
		if (a.Code == ReplaceCurl) != (len(a.Commands) == 2) {
			t.Errorf("%s: commands %q", c.name, a.Commands)
		}
	}
}

// What is advised runs where the call came from.
func TestCommandsAreOfWhatIsThere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		userAgent, executable string
		program               string // of both commands, "" for none
	}{
		{"curl/7.61.1", "/usr/bin/curl", "curl"},
		{"Wget/1.21.3", "/usr/bin/wget", "wget"},
		{"Wget/1.14 (linux-gnu)", "/usr/bin/wget", "curl"},
		{"Wget", "/bin/busybox", ""},
		{"Wget", "/bin/wget", ""},
		{"Wget", "", ""},
		{"", "/bin/busybox", ""},
	} {
		got := Advise(Identify(Evidence{Kind: imds.V1, UserAgent: c.userAgent, Executable: c.executable}), Seen{Kind: imds.V1, Path: instanceID}).Commands
		if (len(got) == 0) != (c.program == "") {
			t.Errorf("%s of %s: %q", c.userAgent, c.executable, got)
		}
		for i, prefix := range []string{"TOKEN=$(", ""} {
			if c.program != "" && !strings.HasPrefix(got[i], prefix+c.program+" ") {
				t.Errorf("%s of %s: %q", c.userAgent, c.executable, got[i])
			}
		}
	}
}

// To raise the hop limit lets tokens into all containers: that is said of what was seen to need it.
func TestHopLimitIsNoGuess(t *testing.T) {
	t.Parallel()
	for _, r := range Rows() {
		for _, v := range []string{"", "0.0.1", "999.0"} {
			for _, h := range []*History{nil, {}} {
				c := Client{Name: r.Name, Kind: r.Kind, Version: v, row: r}
				if a := Advise(c, Seen{Kind: imds.V1, OtherNetwork: true, History: h}); a.Code == RaiseHops || strings.Contains(a.Text, "raise") {
					t.Errorf("%s %s: %+v", r.Name, v, a)
				}
			}
		}
	}
}

// Each row, in each situation and version, gets advice that fits into a line.
func TestAdviceFitsIntoALine(t *testing.T) {
	t.Parallel()
	hopLimit := newCalls()
	hopLimit.token(200, false, 0, true)
	hopLimit.container(instanceID)
	for _, r := range Rows() {
		for _, v := range []string{"", "0.0.1", "999.0", "1.23456789.123456789-abcdefghijk"} {
			for _, seen := range []Seen{{Kind: imds.V1}, {Kind: imds.V2}, {Kind: imds.V1, OtherNetwork: true}, {Kind: imds.V1, History: &hopLimit.History}} {
				c := Client{Name: r.Name, Kind: r.Kind, Version: v, row: r}
				if len(r.On) > 0 {
					c.sdk, c.SDKVersion = table.byName[r.On[0]], v
				}
				a := c.advise(seen)
				if a.Text == "" || len(a.Text) > maxAdvice || strings.ContainsAny(a.Text, "\n\r") || !utf8.ValidString(a.Text) {
					t.Errorf("%s %s: %d bytes: %s", r.Name, v, len(a.Text), a.Text)
				}
			}
		}
	}
}

// The commands are run by a real shell, with curl and wget replaced by what prints its arguments.
func TestCommandsAreSafeToPaste(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		instanceID: instanceID,
		"/latest/meta-data/iam/security-credentials/$(id)":   "/latest/meta-data/iam/security-credentials/%24%28id%29",
		"/latest/meta-data/tags/instance/a b'c\"d`e`;f&g|h#": "/latest/meta-data/tags/instance/a%20b%27c%22d%60e%60%3Bf%26g%7Ch%23",
		"/latest/meta-data/tags/instance/100%":               "/latest/meta-data/tags/instance/100%25",
		"/latest/meta-data/tags/instance/Größe":              "/latest/meta-data/tags/instance/Gr%C3%B6%C3%9Fe",
		"/latest/meta-data/tags/instance/~user*?[a]":         "/latest/meta-data/tags/instance/%7Euser%2A%3F%5Ba%5D",
		"":                         "/latest/meta-data/",
		strings.Repeat("/a", 1000): "/latest/meta-data/",
	} {
		for tool, commands := range map[string][]string{"curl": curlCommands(path), "wget": wgetCommands(path)} {
			script := tool + "() { case \"$*\" in *PUT*) echo secret;; *) printf '<%s>' \"$@\";; esac; }\n" + strings.Join(commands, "\n")
			out, err := exec.Command("sh", "-c", script).CombinedOutput()
			if err != nil {
				t.Errorf("%q: %v: %s", path, err, out)
			}
			if got := string(out); !strings.HasSuffix(got, "<http://169.254.169.254"+want+">") || !strings.Contains(got, imds.HeaderToken+": secret>") {
				t.Errorf("%s %q: %s", tool, path, got)
			}
		}
	}
}
