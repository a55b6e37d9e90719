package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Where the sidecar may load BPF, the hook on the pod's cgroup needs no init step, names callers by what the
// kernel recorded, and lets go when the sidecar does.
func TestSidecarWithTheHookServesItsPod(t *testing.T) {
	t.Parallel()
	i := newInstance(t, podMetadata(2))
	key := i.credentials(t).AccessKeyID
	d := i.startDocker(t)
	parent := "--cgroup-parent=" + d.podCgroup(t, "pod1")
	p := d.startPod(t, i, parent)
	p.shared = []string{parent}

	options := []string{
		"--env=IMDS_BRIDGE_REDIRECTOR=ebpf", "--env=IMDS_BRIDGE_REDIRECT_CGROUP=/host/cgroup/docker/pod1",
		"--env=IMDS_BRIDGE_REDIRECT_LISTEN=127.0.0.1:" + sidecarPort, "--env=IMDS_BRIDGE_REDIRECT_LISTEN6=[::1]:" + sidecarPort,
		"--env=IMDS_BRIDGE_LOG_LEVEL=debug", "--volume=" + d.cgroup + ":/host/cgroup:ro", "--user=0",
	}
	for _, name := range []string{"NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"} { // this Docker does not know BPF and PERFMON
		options = append(options, "--cap-add="+name)
	}
	p.runSidecar(t, options...)
	i.imds.Reset()
	p.expectKey(t, key)
	p.expectKey(t, key, "-v2")
	if got := p.curlInPod(t, "http://[fd00:ec2::254]"+role); got.err != nil || !strings.Contains(got.stdout, key) {
		t.Errorf("by IPv6: %v, %s", got.err, got.stderr)
	}
	for _, line := range p.calls(t, 6) {
		who := line.Caller
		named := who.PID != 0 && (who.Comm == "plain" && who.UID == 1000 || who.Comm == "curl" && who.UID == 0)
		if !named || !who.HostNetwork || line.Upgraded != (line.Version == "v1") {
			t.Errorf("caller: want plain of user 1000, or curl: %s", line.raw)
		}
	}
	if got := i.imds.Counts(); got.V1 != 0 {
		t.Errorf("reached IMDS: %+v, want no v1 call", got)
	}
	if _, got := d.plain(t, "pods"); got.Status != http.StatusUnauthorized {
		t.Errorf("another pod got %s, want 401", got)
	}
	if rules := p.rules(t); rules != "" {
		t.Errorf("there are rules:\n%s", rules)
	}
	p.run(t, nil, "kill", p.sidecar())
	<-p.ended
	if got := p.app(t, "1000"); got.Status != http.StatusUnauthorized {
		t.Errorf("without its sidecar the pod got %s, want 401 from IMDS itself", got)
	}
	p.expectKey(t, key, "-v2")
}

// podCgroup names a cgroup for the containers of a pod, which goes when they are gone.
func (d docker) podCgroup(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join("/", filepath.Base(d.cgroup), "docker", name)
	t.Cleanup(func() {
		left, err := filepath.Glob("/sys/fs/cgroup/*" + path)
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range left {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	return path
}

// curlInPod is a process of the pod's network namespace and cgroup, as one of its containers is.
func (p *pod) curlInPod(t *testing.T, url string) ended {
	t.Helper()
	cmd := p.inside("0", curlAt(url).command())
	cgroup := filepath.Join(p.docker.cgroup, "docker/pod1/curl")
	if err := os.MkdirAll(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Args = append([]string{"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, cgroup}, cmd.Args...)
	cmd.Path = "/bin/sh"
	got := finish(t, p.instance.Host().StartOutside, cmd)
	if err := os.Remove(cgroup); err != nil {
		t.Error(err)
	}
	return got
}
