package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// client is a program that asks for the role's credentials and prints them, or the access key's id.
type client struct {
	args  []string
	dir   string
	agent string // its User-Agent begins so; "" for none
}

func (c client) command() *exec.Cmd {
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Dir = c.dir
	// No credentials, settings or proxies of whoever runs the tests.
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "LANG=C.UTF-8", "AWS_REGION=eu-west-1"}
	return cmd
}

const tokenHeader = "X-Aws-Ec2-Metadata-Token"

// checkUpgraded proves that a client which knows IMDSv1 alone gets the role's credentials where IMDS
// requires tokens, that IMDS sees its requests unchanged but for the token, and that it is named.
func checkUpgraded(t *testing.T, c client, flags ...string) {
	t.Helper()
	i := newInstance(t, simulator.Options{})
	key := i.credentials(t).AccessKeyID
	_, direct := i.watch(t, i.Host().StartOutside, c, key)

	i.requireTokens(t)
	b := i.startBridge(t, bridgeOptions{flags: flags})
	process, bridged := i.watch(t, i.Host().Start, c, key)

	fetched := 0
	bridged = slices.DeleteFunc(bridged, func(r simulator.Request) bool {
		if r.Kind != "token" {
			return false
		}
		checkTokenFetch(t, r)
		fetched++
		return true
	})
	if fetched != 1 {
		t.Errorf("the bridge fetched %d tokens, want 1", fetched)
	}
	if len(bridged) != len(direct) {
		t.Fatalf("requests that reached IMDS\n%v\nwithout the bridge\n%v", heads(bridged), heads(direct))
	}
	for n := range direct {
		if len(bridged[n].Header[tokenHeader]) != 1 || bridged[n].Kind != "v2" {
			t.Errorf("not upgraded: %s", bridged[n].Head)
		}
		checkSame(t, direct[n], bridged[n])
	}
	lines := b.calls(t, len(direct), pid(process.Process.Pid))
	checkLogged(t, lines, direct)
	for _, line := range lines {
		checkNamed(t, line, process, c)
		if line.Version != "v1" || !line.Upgraded || line.Verdict != "upgrade" || line.Level != "INFO" {
			t.Errorf("log line: %s", line.raw)
		}
	}
}

// checkStaysV2 proves that a client which speaks IMDSv2 gets the role's credentials with a token of
// its own, that IMDS sees its requests unchanged, and that it is never taken for an IMDSv1 one.
func checkStaysV2(t *testing.T, c client, flags ...string) {
	t.Helper()
	i := newInstance(t, simulator.Options{Metadata: simulator.MetadataOptions{HTTPTokens: simulator.TokensRequired}})
	key := i.credentials(t).AccessKeyID
	_, direct := i.watch(t, i.Host().StartOutside, c, key)

	b := i.startBridge(t, bridgeOptions{flags: flags})
	bridgeToken := i.bridgeToken(t)
	process, bridged := i.watch(t, i.Host().Start, c, key)

	if len(bridged) != len(direct) {
		t.Fatalf("requests that reached IMDS\n%v\nwithout the bridge\n%v", heads(bridged), heads(direct))
	}
	for n := range direct {
		checkSame(t, direct[n], bridged[n])
		token := bridged[n].Header.Get(tokenHeader)
		if token == bridgeToken || (token == "") != (bridged[n].Kind == "token") {
			t.Errorf("not the caller's own token: %s", bridged[n].Head)
		}
	}
	lines := b.calls(t, len(direct), pid(process.Process.Pid))
	checkLogged(t, lines, direct)
	for _, line := range lines {
		checkNamed(t, line, process, c)
		if line.Upgraded || line.Verdict != "pass" || line.Level != "DEBUG" {
			t.Errorf("log line: %s", line.raw)
		}
	}
}

// watch runs a client, checks that it got the key, and returns what reached IMDS since the last time.
func (i *instance) watch(t *testing.T, start func(*exec.Cmd) error, c client, key string) (ended, []simulator.Request) {
	t.Helper()
	process := finish(t, start, c.command())
	if process.err != nil || !strings.Contains(process.stdout, key) {
		t.Fatalf("%v: %v, standard output %q, want %s in it; standard error:\n%s", c.args, process.err, process.stdout, key, process.stderr)
	}
	defer i.imds.Reset()
	return process, i.imds.Requests()
}

// bridgeToken makes the bridge upgrade a call, and returns the token that it uses. The simulator
// forgets what reached it.
func (i *instance) bridgeToken(t *testing.T) string {
	t.Helper()
	if got := finish(t, i.Host().Start, curl("/latest/meta-data/instance-id")); got.err != nil {
		t.Fatalf("curl: %v, %s", got.err, got.stderr)
	}
	defer i.imds.Reset()
	requests := i.imds.Requests()
	return requests[len(requests)-1].Header.Get(tokenHeader)
}

// curl asks for a path of the metadata service by IMDSv1, and fails if it does not get it.
func curl(path string, options ...string) *exec.Cmd {
	return curlAt("http://169.254.169.254"+path, options...).command()
}

func curlAt(url string, options ...string) client {
	args := []string{"curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "5"}
	return client{args: append(append(args, options...), url), agent: "curl/"}
}

// checkSame compares a request that came through the bridge with the same one that did not. The
// order of header lines may differ, and tokens do.
func checkSame(t *testing.T, direct, bridged simulator.Request) {
	t.Helper()
	if direct.Method != bridged.Method || direct.Target != bridged.Target || direct.Proto != bridged.Proto ||
		direct.Host != bridged.Host || direct.Local != bridged.Local || string(direct.Body) != string(bridged.Body) ||
		!maps.EqualFunc(withoutToken(direct.Header), withoutToken(bridged.Header), slices.Equal) {
		t.Errorf("reached IMDS with the bridge:\n%s\nwithout it:\n%s", bridged.Head, direct.Head)
	}
	if direct.Status != bridged.Status {
		t.Errorf("%s %s: status %d, without the bridge %d", direct.Method, direct.Target, bridged.Status, direct.Status)
	}
}

// checkLogged compares the log with the requests that a caller makes, with or without the bridge. The
// order is not looked at: lines are written after the answers.
func checkLogged(t *testing.T, lines []record, requests []simulator.Request) {
	t.Helper()
	var got, want []string
	for _, line := range lines {
		got = append(got, fmt.Sprint(line.Version, " ", line.Method, " ", line.Path, " ", line.Status))
	}
	for _, r := range requests {
		want = append(want, fmt.Sprint(r.Kind, " ", r.Method, " ", strings.TrimSuffix(r.Target, "/"), " ", r.Status))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("logged:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func withoutToken(h http.Header) http.Header {
	h = h.Clone()
	h.Del(tokenHeader)
	return h
}

// checkTokenFetch checks the request that the bridge makes on its own account.
func checkTokenFetch(t *testing.T, r simulator.Request) {
	t.Helper()
	want := http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {"21600"}, "Content-Length": {"0"}}
	if r.Method != http.MethodPut || r.Status != http.StatusOK || !maps.EqualFunc(r.Header, want, slices.Equal) {
		t.Errorf("the bridge's own token request: status %d\n%s", r.Status, r.Head)
	}
}

func heads(requests []simulator.Request) (heads []string) {
	for _, r := range requests {
		heads = append(heads, r.Method+" "+r.Target+" "+r.Kind)
	}
	return heads
}

// checkNamed compares who called with what the log says of it.
func checkNamed(t *testing.T, line record, process ended, c client) {
	t.Helper()
	executable, err := filepath.EvalSymlinks(process.Path)
	if err != nil {
		t.Fatal(err)
	}
	who := line.Caller
	if who.PID != process.Process.Pid || who.PPID != os.Getpid() || who.Exe != executable || !slices.Equal(who.Args, process.Args) {
		t.Errorf("caller: want process %d of %d, %s %q: %s", process.Process.Pid, os.Getpid(), executable, process.Args, line.raw)
	}
	if who.UID != 0 || who.GID != 0 || who.User != "root" || !who.Complete || !who.HostNetwork || who.ContainerID != "" {
		t.Errorf("caller: want root on the host, in no container: %s", line.raw)
	}
	if len(who.Ancestors) == 0 || who.Ancestors[0].PID != os.Getpid() {
		t.Errorf("ancestors: want this process, %d, first: %s", os.Getpid(), line.raw)
	}
	if line.UserAgent != c.agent && (c.agent == "" || !strings.HasPrefix(line.UserAgent, c.agent)) {
		t.Errorf("User-Agent: %q, want one of %s", line.UserAgent, c.agent)
	}
}
