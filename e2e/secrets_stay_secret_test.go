package e2e

import (
	"bytes"
	"encoding/base64"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// What callers and the instance have, and must not show.
const (
	plantedUserData = "planted-user-data-5f1c"
	plantedPassword = "planted-password-8a2d"
	plantedBearer   = "planted-bearer-77e0"
	plantedOption   = "planted-option-3b94"
	plantedQuery    = "planted-query-c1d8"
	plantedVariable = "planted-variable-0e6f"
	plantedLoginURL = "planted-login-92aa"
)

// harmless is in the same places, and is to be shown: where it is missing, nothing was looked at.
const harmless = "harmless-word-d40b"

func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	for redirector, tokens := range map[string]string{
		"ebpf": simulator.TokensRequired,
		"none": simulator.TokensOptional, // nobody upgrades the calls by IMDSv1
	} {
		t.Run(redirector, func(t *testing.T) {
			t.Parallel()
			checkSecrets(t, redirector, tokens)
		})
	}
}

func checkSecrets(t *testing.T, redirector, tokens string) {
	i := newInstance(t, simulator.Options{
		Metadata: simulator.MetadataOptions{HTTPTokens: tokens},
		Tree:     treeWithUserData(t, plantedUserData),
	})
	credentials := i.credentials(t)
	c := i.startCollector(t)
	b := i.startBridge(t, bridgeOptions{flags: []string{"--redirector=" + redirector}, env: c.env()})

	secrets := map[string]string{
		"access key id": credentials.AccessKeyID, "secret access key": credentials.SecretAccessKey, "session token of the role": credentials.Token,
		"user data": plantedUserData, "password": plantedPassword, "login": base64.StdEncoding.EncodeToString([]byte("admin:" + plantedPassword)),
		"Authorization": plantedBearer, "option": plantedOption, "query": plantedQuery, "environment variable": plantedVariable,
		"login in a URL": plantedLoginURL,
	}
	telling := i.tellingCalls(t)
	for _, call := range telling {
		call.Env = append(call.Env, "SECRET="+plantedVariable)
		if got := finish(t, i.Host().Start, call); got.err != nil {
			t.Errorf("%v: %v, %s", call.Args, got.err, got.stderr)
		}
	}
	for _, r := range i.imds.Requests() {
		if token := r.Header.Get(tokenHeader); token != "" {
			secrets["metadata token "+token[:8]] = token
		}
	}
	// With the fetch of the token that some of them carry.
	calls := b.calls(t, 1+len(telling), func(record) bool { return true })
	status, metrics := b.get("/metrics")
	if status != 200 || !strings.Contains(metrics, "imds_requests") {
		t.Errorf("/metrics: status %d\n%s", status, metrics)
	}
	i.awaitExport(t, c, len(calls))
	b.stop(t)

	shown := map[string][]byte{"log": []byte(strings.Join(b.log(), "\n")), "/metrics": []byte(metrics)}
	for _, path := range []string{"/v1/traces", "/v1/logs", "/v1/metrics"} {
		shown[path] = bytes.Join(c.received(path), nil)
	}
	for where, text := range shown {
		if !strings.HasSuffix(where, "metrics") && !bytes.Contains(text, []byte(harmless)) {
			t.Errorf("%s does not hold the harmless word: this test sees nothing", where)
		}
		for what, secret := range secrets {
			if at := bytes.Index(text, []byte(secret)); at >= 0 {
				t.Errorf("%s shows the %s: %q", where, what, text[max(0, at-100):min(len(text), at+len(secret)+20)])
			}
		}
	}
}

// tellingCalls are calls that carry, bring or were started with secrets.
func (i *instance) tellingCalls(t *testing.T) []*exec.Cmd {
	t.Helper()
	token := finish(t, i.Host().Start, curl("/latest/api/token", "--request", "PUT", "--header", "X-aws-ec2-metadata-token-ttl-seconds: 60"))
	if token.err != nil || token.stdout == "" {
		t.Fatalf("token: %v, %s", token.err, token.stderr)
	}
	return []*exec.Cmd{
		curl(role),
		curl(role, "--header", "X-aws-ec2-metadata-token: "+token.stdout),
		curl("/latest/user-data", "--user-agent", harmless),
		curl("/latest/user-data", "--header", "X-aws-ec2-metadata-token:"+token.stdout),
		curl("/latest/meta-data/ami-id", "--user", "admin:"+plantedPassword),
		curl("/latest/meta-data/ami-id", "--header", "Authorization: Bearer "+plantedBearer),
		curl("/latest/meta-data/ami-id?token=" + plantedQuery),
		curlAt("http://admin:" + plantedLoginURL + "@169.254.169.254/latest/meta-data/ami-id").command(),
		client{args: []string{
			debianPython, "-c", `import urllib.request; urllib.request.urlopen("http://169.254.169.254/latest/meta-data/ami-id")`,
			"--api-key=" + plantedOption, "--secret", plantedOption, "DB_PASSWORD=" + plantedOption,
		}}.command(),
	}
}

// awaitExport waits until the collector has the traces of n calls.
func (i *instance) awaitExport(t *testing.T, c *collector, n int) {
	t.Helper()
	await(t, "traces of all calls", 5*time.Second, func() bool {
		servers := 0
		for _, s := range c.spans(t) {
			if len(s.ParentSpanId) == 0 {
				servers++
			}
		}
		return servers >= n
	})
}

func treeWithUserData(t *testing.T, text string) *simulator.Tree {
	t.Helper()
	userData := regexp.MustCompile(`(?ms)^user-data:.*?^dynamic:`)
	tree, err := simulator.ParseTree(userData.ReplaceAll(simulator.BuiltInYAML, []byte("user-data: "+text+"\n\ndynamic:")))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
