package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var pause = built("pause", ".", "./clients/pause")

// The user that a sidecar runs as, and what it is told.
const (
	sidecarUser = "65532"
	sidecarPort = "8254"
)

var sidecarSettings = []string{
	"--env=IMDS_BRIDGE_REDIRECTOR=iptables", "--env=IMDS_BRIDGE_REDIRECT_INSTALL=false",
	"--env=IMDS_BRIDGE_REDIRECT_LISTEN=127.0.0.1:" + sidecarPort, "--env=IMDS_BRIDGE_REDIRECT_LISTEN6=[::1]:" + sidecarPort,
	"--env=IMDS_BRIDGE_FAIL=closed", "--env=IMDS_BRIDGE_LOG_LEVEL=debug",
}

// pod is containers that share a network namespace: that of the first, which does nothing.
type pod struct {
	docker
	instance *instance
	id       string   // of the first container
	pid      string   // of its process, as the host numbers it
	shared   []string // options of containers that share more than the network
	log      bytes.Buffer
	ended    chan struct{} // closed when the sidecar has; nil without one
}

// startPod starts a pod on a network with IPv4 and IPv6.
func (d docker) startPod(t *testing.T, i *instance, options ...string) *pod {
	t.Helper()
	d.load(t, pause(t))
	d.load(t, binary(t))
	d.loadInit(t)
	if !slices.Contains(strings.Fields(d.run(t, nil, "network", "ls", "--format={{.Name}}")), "pods") {
		// Both in the lab's ranges for containers.
		d.run(t, nil, "network", "create", "--ipv6", "--subnet=172.30.254.0/24", "--subnet=fd6c:6162:1:fe::/64", "pods")
	}
	p := &pod{docker: d, instance: i}
	p.id = d.run(t, nil, append(append([]string{"run", "--detach", "--network=pods"}, options...), "pause", "/pause")...)
	t.Cleanup(func() { d.run(t, nil, "rm", "--force", p.id) })
	p.pid = d.run(t, nil, "inspect", "--format={{.State.Pid}}", p.id)
	return p
}

// options put a container into the pod, with the least that it can do.
func (p *pod) options(more ...string) []string {
	options := []string{"--network=container:" + p.id, "--cap-drop=ALL", "--read-only", "--security-opt=no-new-privileges"}
	return append(append(options, p.shared...), more...)
}

// loadInit makes an image of iptables, as this machine has it, and the binary: what the Dockerfile's target
// init is, from what is here.
func (d docker) loadInit(t *testing.T) {
	t.Helper()
	tool := "/usr/sbin/xtables-nft-multi"
	files := []string{tool}
	extensions, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil || len(extensions) == 0 {
		t.Fatalf("extensions of iptables: %v", err)
	}
	files = append(files, extensions...)
	out, err := exec.Command("ldd", tool).CombinedOutput()
	if err != nil {
		t.Fatalf("ldd: %v: %s", err, out)
	}
	files = append(files, regexp.MustCompile(`/\S+`).FindAllString(strings.ReplaceAll(string(out), tool, ""), -1)...)

	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	made := map[string]bool{"/": true}
	var directory func(name string) // with the mode that Docker does not give those that it makes itself
	directory = func(name string) {
		if made[name] {
			return
		}
		directory(filepath.Dir(name))
		made[name] = true
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	add := func(name, from string) {
		directory(filepath.Dir(name))
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range files {
		add(file, file)
	}
	add("/imds-bridge", binary(t))
	for _, name := range []string{"iptables", "ip6tables"} {
		if err := w.WriteHeader(&tar.Header{Name: "/usr/sbin/" + name, Typeflag: tar.TypeSymlink, Linkname: filepath.Base(tool)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d.run(t, &layer, "import", "-", "init")
}

// init runs a verb in the pod, as its init step does, and returns what it says.
func (p *pod) init(t *testing.T, capabilities []string, verb ...string) (string, error) {
	t.Helper()
	options := p.options("--rm")
	for _, name := range capabilities {
		options = append(options, "--cap-add="+name)
	}
	args := append(append(append([]string{"--host=unix://" + p.socket, "run"}, options...), "init", "/imds-bridge"), verb...)
	out, err := exec.Command("docker", args...).CombinedOutput()
	return strings.ReplaceAll(string(out), coverageComplaint, ""), err
}

// install puts the rules in place.
func (p *pod) install(t *testing.T, user string) {
	t.Helper()
	out, err := p.init(t, []string{"NET_ADMIN"}, "redirect", "install", "--exempt-uid="+user,
		"--redirect.listen=127.0.0.1:"+sidecarPort, "--redirect.listen6=[::1]:"+sidecarPort)
	if err != nil {
		t.Fatalf("redirect install: %v: %s", err, out)
	}
	for _, want := range []string{"169.254.169.254:80 goes to 127.0.0.1:" + sidecarPort, "[fd00:ec2::254]:80 goes to [::1]:" + sidecarPort, "nft"} {
		if !strings.Contains(out, want) {
			t.Errorf("redirect install does not say %q:\n%s", want, out)
		}
	}
}

// runSidecar starts the bridge in the pod, and waits until it is ready by its own word.
func (p *pod) runSidecar(t *testing.T, options ...string) {
	t.Helper()
	p.launchSidecar(t, options...)
	await(t, "sidecar ready", 20*time.Second, func() bool {
		select {
		case <-p.ended:
			t.Fatalf("the sidecar ended:\n%s", &p.log)
		default:
		}
		return exec.Command("docker", "--host=unix://"+p.socket, "exec", p.sidecar(), "/imds-bridge", "ready").Run() == nil
	})
}

func (p *pod) sidecar() string { return "sidecar-" + p.id[:12] }

func (p *pod) launchSidecar(t *testing.T, options ...string) {
	t.Helper()
	coverage := filepath.Join(scratch, "sidecar-coverage")
	if err := os.MkdirAll(coverage, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(coverage, 0o777); err != nil { // the sidecar is another user's
		t.Fatal(err)
	}
	args := p.options("--name="+p.sidecar(), "--volume="+coverage+":/coverage", "--env=GOCOVERDIR=/coverage")
	args = append(append(args, options...), "imds-bridge", "/imds-bridge", "run")
	p.run(t, nil, append([]string{"create"}, args...)...)
	p.startSidecar(t)
	t.Cleanup(func() {
		p.run(t, nil, "stop", p.sidecar())
		<-p.ended
		p.run(t, nil, "rm", p.sidecar())
		if t.Failed() {
			t.Logf("the sidecar's log:\n%s", &p.log)
		}
	})
}

// startSidecar starts the container of the sidecar that is there already.
func (p *pod) startSidecar(t *testing.T) {
	t.Helper()
	cmd := exec.Command("docker", "--host=unix://"+p.socket, "start", "--attach", p.sidecar())
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	p.ended = ended
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
}

// logged are the lines of the sidecar so far.
func (p *pod) logged(t *testing.T) (lines []record) {
	t.Helper()
	out, err := exec.Command("docker", "--host=unix://"+p.socket, "logs", p.sidecar()).CombinedOutput()
	if err != nil {
		t.Fatalf("docker logs: %v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		r := record{raw: strings.TrimSpace(line)}
		if err := json.Unmarshal([]byte(line), &r); err == nil {
			lines = append(lines, r)
		} else if !strings.HasPrefix(line, "imds-bridge: ") {
			t.Errorf("a line of the log is not JSON: %q", line)
		}
	}
	return lines
}

// calls waits for n lines about calls.
func (p *pod) calls(t *testing.T, n int) (calls []record) {
	t.Helper()
	await(t, "log lines of calls", 10*time.Second, func() bool {
		calls = slices.DeleteFunc(p.logged(t), func(r record) bool { return r.Msg != "imds call" })
		return len(calls) >= n
	})
	return calls
}

// app runs the client "plain" as a user in the pod.
func (p *pod) app(t *testing.T, user string, args ...string) plainResult {
	t.Helper()
	out := p.run(t, nil, append(append([]string{"run"}, p.options("--rm", "--user="+user)...), append([]string{"plain", "/plain"}, args...)...)...)
	var r plainResult
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("output of the container: %v: %q", err, out)
	}
	return r
}

// inside is a command of this machine in the network namespace of the pod, as a user.
func (p *pod) inside(user string, cmd *exec.Cmd) *exec.Cmd {
	args := append([]string{"--net=/proc/" + p.pid + "/ns/net", "--setuid=" + user}, cmd.Args...)
	in := exec.Command("nsenter", args...)
	in.Env = cmd.Env
	return in
}

func (p *pod) curl(t *testing.T, user, url string, options ...string) ended {
	t.Helper()
	return finish(t, p.instance.Host().StartOutside, p.inside(user, curlAt(url, options...).command()))
}

// rules are the bridge's in the pod's network namespace.
func (p *pod) rules(t *testing.T) string {
	t.Helper()
	script := `for program in iptables ip6tables; do for table in nat filter; do "$program" -t "$table" -S | grep -i imds-bridge | sed "s/^/$program: /"; done; done`
	got := finish(t, p.instance.Host().StartOutside, exec.Command("nsenter", "--net=/proc/"+p.pid+"/ns/net", "sh", "-c", script))
	if got.err != nil && got.stderr != "" {
		t.Fatalf("list rules: %v: %s", got.err, got.stderr)
	}
	return got.stdout
}

// coverageComplaint is of a binary that is built to measure itself, and may not write.
const coverageComplaint = "warning: GOCOVERDIR not set, no coverage data emitted\n"

func (r plainResult) String() string {
	return fmt.Sprintf("status %d, key %q, error %q", r.Status, r.AccessKeyID, r.Error)
}
