package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/imds-bridge/imds-bridge/admin"
	"github.com/imds-bridge/imds-bridge/attribution"
	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/caller/software"
	"github.com/imds-bridge/imds-bridge/imds"
)

const hostile = "a\x1b[2Jb\nc\u202ed\u009b1m\x9b"

func hasFact(t *testing.T, list []fact, name, value, from string) {
	t.Helper()
	for _, f := range list {
		if f.Name == name && f.Value == value && f.From == from {
			return
		}
	}
	t.Errorf("no %s %q from %q in %+v", name, value, from, list)
}

func isSafe(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) })
}

// Every fact has its source, and whatever others wrote cannot steer a terminal.
func TestExplainFacts(t *testing.T) {
	t.Parallel()
	c := &caller.Caller{
		Origin: caller.Origin{PID: 7, UID: 33, GID: 33}, Complete: true, Comm: "python3", Executable: "/usr/bin/python3.11",
		Args: []string{"python3", "/srv/report.py"}, Program: caller.Program{Interpreter: "python", Script: "/srv/report.py"},
		Started: time.Unix(0, 0), Cgroup: "/docker/0123", ContainerID: "0123", ContainerRuntime: "docker",
		Place:     &caller.Place{Unit: "report.service", PodUID: "u"},
		Starter:   caller.Starter{Kind: caller.StartedByCron, Name: "/srv/report.sh", PID: 5},
		Ancestors: []caller.Process{{PID: 5, Comm: "sh"}, {PID: 1, Comm: "init"}},
	}
	known := &container.Container{
		ID: "0123", Name: hostile, Image: container.Image{Name: "shop", Tag: "v7", ID: "sha256:99"}, From: []string{"docker", "cri"},
		Labels: map[string]string{"team": "checkout", hostile: strings.Repeat("x", 100<<10)},
		Pod:    &container.Pod{Name: "web-1", Namespace: "shop", UID: "u", Workload: container.Workload{Kind: "Deployment", Name: "web"}},
		Task:   &container.Task{ARN: "arn:aws:ecs:x", Family: "web", Revision: "3"},
	}
	runs := &software.Software{
		Libraries: []software.Library{{Ecosystem: software.PyPI, Name: "boto", Version: "2.49.0", Certainty: software.Installed, Path: "/usr/lib/boto.dist-info"}},
		Package:   software.Package{Manager: "dpkg", Name: "python3.11", Version: "3.11.2-6"},
		LibraryPackages: map[string]software.Package{
			"/usr/lib/boto.dist-info": {Manager: "dpkg", Name: "python3-boto", Version: "2.49.0-4.1"},
		},
		Missing: "too many files",
	}
	f := facts{pid: 7}
	f.process(c)
	f.place(c)
	f.container(c, known)
	f.software(runs, nil, false)
	f.owner(&attribution.Attribution{Who: &attribution.Who{Owner: owner.Owner{Name: "checkout", From: "pod.label:team"}, Service: "web"}}, owner.Owner{Name: "web", From: "pod.workload"}, false)
	for _, want := range [][3]string{
		{"process", "python3, since 1970-01-01T00:00:00Z", "/proc/7/stat"},
		{"user", "33, group 33", "/proc/7/status"},
		{"executable", "/usr/bin/python3.11", "/proc/7/exe"},
		{"arguments", "python3 /srv/report.py", "/proc/7/cmdline, without secrets"},
		{"script", "/srv/report.py", "its arguments"},
		{"started by", "cron /srv/report.sh, process 5", "its ancestors"},
		{"ancestors", "sh (5) < init (1)", "/proc, as of now"},
		{"unit", "report.service", "its cgroup"},
		{"container", "0123 of docker", "its cgroup"},
		{"container name", caller.Printable(hostile, 99), "docker, cri"},
		{"image", "shop:v7", "docker, cri"},
		{"pod", "shop/web-1", "docker, cri"},
		{"workload", "Deployment web", "docker, cri"},
		{"task definition", "web:3", "docker, cri"},
		{"library", "boto 2.49.0 (pypi, installed)", "/usr/lib/boto.dist-info, of python3-boto 2.49.0-4.1"},
		{"package", "python3.11 3.11.2-6", "dpkg, which has its executable"},
		{"owner", "checkout", "pod.label:team"},
		{"service", "web", "pod.workload"},
	} {
		hasFact(t, f.list, want[0], want[1], want[2])
	}
	for _, one := range f.list {
		if (one.Value == "") != (one.Why != "") || one.Value != "" && one.From == "" || len(one.Value) > maxShown {
			t.Errorf("a fact without a source, or without a reason: %+v", one)
		}
	}
	x := &explanation{Processes: []explained{{PID: 7, Facts: f.list}}, Sources: []sourceState{{Source: "cri", Error: "no such file"}}, Missing: []string{"much"}}
	text := x.text(false)
	if !isSafe(text) {
		t.Errorf("not safe for a terminal: %q", text)
	}
	for _, want := range []string{"process 7\n", "unknown: there may be more: too many files\n", "cri          not there: no such file\n", "missing\n  much\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestExplainWhatIsUnknown(t *testing.T) {
	t.Parallel()
	f := facts{pid: 7}
	f.process(&caller.Caller{Args: []string{"x"}, Program: caller.Program{Interpreter: "sh"}})
	f.place(&caller.Caller{})
	f.container(&caller.Caller{ContainerID: "0123"}, nil)
	f.container(&caller.Caller{Place: &caller.Place{PodUID: "u"}}, nil)
	f.software(nil, nil, true)
	f.owner(&attribution.Attribution{Who: &attribution.Who{}}, owner.Owner{}, true)
	f.client(attribution.Unknown)
	unknown := map[string]string{}
	for _, one := range f.list {
		if one.Value == "" {
			unknown[one.Name] = one.Why
		}
	}
	for name, why := range map[string]string{
		"executable": "CAP_SYS_PTRACE", "script": "name none", "started by": "no ancestor", "network": "CAP_SYS_PTRACE",
		"container": "pod or task alone", "image": "no source", "libraries": "not looked for", "package": "not looked for",
		"owner": "tags", "service": "no variable", "client": "User-Agent",
	} {
		if !strings.Contains(unknown[name], why) {
			t.Errorf("%s: %q, want %q in it", name, unknown[name], why)
		}
	}
}

// What processes of a container have in common is said once.
func TestExplainContainer(t *testing.T) {
	t.Parallel()
	one := explained{PID: 7, Facts: []fact{{Name: "image", Value: "shop:v7", From: "docker"}, {Name: "executable", Value: "/a", From: "/proc/7/exe"}, {Name: "user", Value: "root (0)", From: "/proc/7/status"}}}
	two := explained{PID: 8, Facts: []fact{{Name: "image", Value: "shop:v7", From: "docker"}, {Name: "executable", Value: "/b", From: "/proc/8/exe"}, {Name: "user", Value: "root (0)", From: "/proc/8/status"}}}
	x := &explanation{Container: "0123", Processes: []explained{one, two}, More: 3}
	text := x.text(false)
	for want, times := range map[string]int{"shop:v7": 1, "root (0)": 1, "/a": 1, "/b": 1, "5 processes": 1, "3 more": 1, "process 7\n": 1, "process 8\n": 1} {
		if n := strings.Count(text, want); n != times {
			t.Errorf("%q is there %d times, want %d:\n%s", want, n, times, text)
		}
	}
}

func TestFindContainers(t *testing.T) {
	t.Parallel()
	proc := t.TempDir()
	ids := []string{strings.Repeat("ab", 32), strings.Repeat("ab", 31) + "cd"}
	for pid, cgroup := range map[string]string{
		"1": "/init.scope", "12": "/docker/" + ids[0], "7": "/docker/" + ids[0], "8": "/docker/" + ids[1], "9": "/lxc.payload.web/x", "self": "/docker/" + ids[1],
	} {
		if err := os.Mkdir(filepath.Join(proc, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "cgroup"), []byte("0::"+cgroup+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all, err := inhabitedContainers(proc)
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]string{
		ids[0]: fmt.Sprint([]inhabited{{id: ids[0], pids: []int{7, 12}}}), ids[1]: fmt.Sprint([]inhabited{{id: ids[1], pids: []int{8}}}),
		ids[0][:63]: fmt.Sprint([]inhabited{{id: ids[0], pids: []int{7, 12}}}), "web": fmt.Sprint([]inhabited{{id: "web", pids: []int{9}}}),
		ids[0][:minPrefix-1]: "[]", "abababababxx": "[]", "": "[]",
	} {
		if got := fmt.Sprint(byID(all, what)); got != want {
			t.Errorf("%q: %s, want %s", what, got, want)
		}
	}
	if got := byID(all, ids[0][:minPrefix]); len(got) != 2 {
		t.Errorf("both begin so: %v", got)
	}
}

// The rules that say where the name of a service is from find the same name.
func TestServiceRules(t *testing.T) {
	t.Parallel()
	rules, err := owner.ParseRules(serviceRules)
	if err != nil {
		t.Fatal(err)
	}
	all := owner.Facts{
		Container: &container.Container{
			Labels: map[string]string{"com.datadoghq.tags.service": "8", "com.docker.compose.service": "9"},
			Pod: &container.Pod{
				Annotations: map[string]string{"backstage.io/kubernetes-id": "1"},
				Labels:      map[string]string{"backstage.io/kubernetes-id": "2", "tags.datadoghq.com/service": "5", "app.kubernetes.io/name": "6", "app": "7"},
				Workload:    container.Workload{Name: "10"},
			},
			Task: &container.Task{Service: "11", Family: "12"},
		},
		Env:  map[string]string{"OTEL_SERVICE_NAME": "3", "DD_SERVICE": "4"},
		Unit: "13.service",
	}
	// One source after the other is taken away, the one that was found first.
	for n, away := range []func(){
		func() { all.Container.Pod.Annotations = nil },
		func() { delete(all.Container.Pod.Labels, "backstage.io/kubernetes-id") },
		func() { delete(all.Env, "OTEL_SERVICE_NAME") },
		func() { delete(all.Env, "DD_SERVICE") },
		func() { delete(all.Container.Pod.Labels, "tags.datadoghq.com/service") },
		func() { delete(all.Container.Pod.Labels, "app.kubernetes.io/name") },
		func() { delete(all.Container.Pod.Labels, "app") },
		func() { delete(all.Container.Labels, "com.datadoghq.tags.service") },
		func() { delete(all.Container.Labels, "com.docker.compose.service") },
		func() { all.Container.Pod.Workload.Name = "" },
		func() { all.Container.Task.Service = "" },
		func() { all.Container.Task.Family = "" },
		func() { all.Unit = "" },
	} {
		want := fmt.Sprint(n + 1)
		if name, by := owner.Service(&all), owner.Find(rules, nil, &all); name != want || strings.TrimSuffix(by.Name, ".service") != want {
			t.Errorf("%d: service %q, by the rules %+v", n+1, name, by)
		}
		away()
	}
	if name, by := owner.Service(&all), owner.Find(rules, nil, &all); name != "" || by.Name != "" {
		t.Errorf("of nothing: %q, %+v", name, by)
	}
}

// bridgeThatKnows is an admin listener whose bridge remembers one process.
func bridgeThatKnows(t *testing.T, pid int, known any) (listen string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "imds-bridge") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listen = "unix:" + filepath.Join(dir, "admin.sock")
	l, err := admin.Listen(listen)
	if err != nil {
		t.Fatal(err)
	}
	s := admin.New(admin.Options{
		Status: func() admin.Status { return admin.Status{} }, Metrics: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler),
		Callers: func(asked uint32) (any, bool) { return known, int(asked) == pid },
	})
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	return listen
}

func explainFor(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr strings.Builder
	code = run(t.Context(), append([]string{"explain", "--attribution.docker=", "--attribution.cri=", "--attribution.ecs=off", "--attribution.kubernetes=off"}, args...), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

// A process of ours is explained without any privilege, and what it called as the bridge says.
func TestExplain(t *testing.T) {
	t.Parallel()
	child := exec.Command("sleep", "60")
	child.Env = []string{"OTEL_SERVICE_NAME=shop"}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	pid := child.Process.Pid
	listen := bridgeThatKnows(t, pid, calls{
		V1: 3, V2: 4, Tokens: 5, Last: time.Now(), Owner: calledOwner{"infra", "instance.tag:team"},
		Client: calledBy{Name: "boto2", Title: "Boto 2 " + hostile, Confidence: "certain", SpeaksV2: "no", From: "library"},
		Advice: &calledAdvice{Code: "upgrade", Text: "replace it " + hostile, Commands: []string{"TOKEN=…", "curl …"}, Link: "https://example.com"},
		Waste:  []calledWaste{{Text: "polled"}},
	})
	code, out, errs := explainFor(t, "--admin.listen="+listen, fmt.Sprint(pid))
	if code != exitOK || !isSafe(out) {
		t.Fatalf("%d %q %s", code, out, errs)
	}
	for _, want := range []string{"process          sleep, since ", "3 v1, 4 v2, 5 for a token", "Boto 2", "certain; speaks v2: no", "← library", "replace it", "curl …", "https://example.com", "polled", "owner (bridge)   infra"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	code, out, errs = explainFor(t, "--admin.listen="+listen, "--output=json", fmt.Sprint(pid))
	var x explanation
	if err := json.Unmarshal([]byte(out), &x); err != nil || code != exitOK || !isSafe(out) {
		t.Fatalf("%d %v %s\n%s", code, err, errs, out)
	}
	if len(x.Processes) != 1 || x.Processes[0].Calls == nil || x.Processes[0].Calls.V1 != 3 || x.Processes[0].Calls.Advice.Code != "upgrade" || len(x.Sources) != 0 {
		t.Errorf("%s", out)
	}
	hasFact(t, x.Processes[0].Facts, "service", "shop", "env:OTEL_SERVICE_NAME")
	hasFact(t, x.Processes[0].Facts, "owner", "shop", "env:OTEL_SERVICE_NAME")
}

// What the admin page says of a process is what was attributed of its calls.
func TestCalled(t *testing.T) {
	t.Parallel()
	a := &attributor{Attributor: attribution.New(attribution.Options{})}
	c := &caller.Caller{Origin: caller.Origin{PID: 1 << 30, Started: time.Hour}, Complete: true, Executable: "/usr/bin/curl", Comm: "curl"}
	if _, ok := a.called(c.PID); ok {
		t.Error("one that made no call is known")
	}
	at := time.Now()
	for n, kind := range []imds.Kind{imds.TokenRequest, imds.V2, imds.V1, imds.V2} {
		a.Of(attribution.Call{
			Caller: c, Kind: kind, Path: "/latest/meta-data/instance-id", Route: "/latest/meta-data/instance-id", UserAgent: "curl/7.61.1",
			Status: 200, Answered: true, Start: at.Add(time.Duration(n)), End: at.Add(time.Duration(n)),
		})
	}
	known, ok := a.called(c.PID)
	got, _ := known.(calls)
	if !ok || got.V1 != 1 || got.V2 != 2 || got.Tokens != 1 || !got.Last.Equal(at.Add(3)) {
		t.Fatalf("%+v", known)
	}
	if got.Client.Name != "curl" || got.Client.Version != "7.61.1" || got.Client.Confidence != "likely" || got.Client.Title == "" || got.Client.From == "" {
		t.Errorf("%+v", got.Client)
	}
	if got.Advice == nil || got.Advice.Code != "replace-curl" || len(got.Advice.Commands) != 2 || got.Advice.Link == "" {
		t.Errorf("%+v", got.Advice)
	}
}

// Calls that the bridge remembers of a process that had the pid before are not this one's.
func TestExplainReusedPID(t *testing.T) {
	t.Parallel()
	listen := bridgeThatKnows(t, os.Getpid(), calls{V1: 3, Last: time.Now().Add(-1e6 * time.Hour)})
	code, out, errs := explainFor(t, "--admin.listen="+listen, fmt.Sprint(os.Getpid()))
	if code != exitOK || strings.Contains(out, "3 v1") || !strings.Contains(out, "none that is remembered") {
		t.Errorf("%d %s%s", code, out, errs)
	}
}

func TestExplainWithoutABridge(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"", "unix:/nonexistent/admin.sock"} {
		code, out, errs := explainFor(t, "--admin.listen="+listen, fmt.Sprint(os.Getpid()))
		if code != exitOK || !strings.Contains(out, "calls: ") || !strings.Contains(out, "executable ") {
			t.Errorf("%q: %d %s%s", listen, code, out, errs)
		}
	}
}

func TestExplainExitCodes(t *testing.T) {
	t.Parallel()
	for _, try := range []struct {
		want int
		args []string
	}{
		{exitUsage, nil}, {exitUsage, []string{"1", "2"}}, {exitUsage, []string{" "}}, {exitUsage, []string{"1", "--output=xml"}},
		{exitUsage, []string{"1", "--attribution.owner=nonsense"}},
		{exitFailed, []string{"1073741824"}}, {exitFailed, []string{"no-such-container"}}, {exitFailed, []string{strings.Repeat("ab", 32)}},
		{exitFailed, []string{"evil\x1b[2J"}}, {exitFailed, []string{"009a3686"}}, {exitFailed, []string{"009a36868dcb"}},
		{exitUsage, []string{"0"}}, {exitUsage, []string{"-5"}}, {exitUsage, []string{"--", "-5"}}, {exitUsage, []string{"4294967296"}},
		{exitUsage, []string{"00936868"}}, {exitUsage, []string{strings.Repeat("1", 20)}}, {exitUsage, []string{"-5", "--output=json"}}, {exitUsage, []string{"-x"}},
	} {
		code, out, errs := explainFor(t, try.args...)
		if code != try.want || out != "" || errs == "" || !isSafe(errs) {
			t.Errorf("%q: %d %q %q, want %d", try.args, code, out, errs, try.want)
		}
	}
}
