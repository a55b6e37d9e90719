package attribution

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/caller/software"
	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/imds/client"
)

const containerID = "0123456789012345678901234567890123456789012345678901234567890123"

// pods is a source that tells of what a test puts into it.
type pods struct{ tell chan *container.Container }

func (pods) Name() string { return "test" }

func (p pods) Watch(ctx context.Context, told container.Listener) error {
	told.Ready()
	for {
		select {
		case c := <-p.tell:
			told.Here(c)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (pods) Inspect(context.Context, string) (*container.Container, error) {
	return nil, container.ErrUnknown
}

func rules(t testing.TB, text string) []owner.Rule {
	t.Helper()
	r, err := owner.ParseRules(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func curl() *caller.Caller {
	return &caller.Caller{
		Origin:   caller.Origin{PID: 1 << 30, Started: time.Hour, ExecID: 1},
		Complete: true, Executable: "/usr/bin/curl", ContainerID: containerID,
	}
}

func v1(c *caller.Caller, userAgent string) Call {
	return Call{
		Caller: c, Kind: imds.V1, Path: "/latest/meta-data/instance-id", Route: "/latest/meta-data/instance-id",
		UserAgent: userAgent, Status: 200, Answered: true, Start: time.Now(), End: time.Now(),
	}
}

func TestOfNobodyTheUserAgentIsKnown(t *testing.T) {
	t.Parallel()
	a := New(Options{})
	for _, c := range []*caller.Caller{nil, {Origin: caller.Origin{PID: 7}}, {Complete: true}} {
		got := a.Of(v1(c, "curl/7.61.1"))
		if got.Client.Name != "curl" || got.Client.Confidence != client.Claimed || got.Owner.Name != "" {
			t.Errorf("%+v", got)
		}
	}
	if a.known.Len() != 0 || a.Known(7) != nil {
		t.Error("nobody is remembered")
	}
}

func TestWhatComesLaterIsInLaterRecords(t *testing.T) {
	t.Parallel()
	source := pods{make(chan *container.Container)}
	d := container.Open(slog.New(slog.DiscardHandler), source)
	defer d.Close()
	a := New(Options{Containers: d, Rules: rules(t, "pod.label:team instance.tag:team"), Tags: func() map[string]string {
		return map[string]string{"team": "infra"}
	}})
	c := curl()
	a.Meet(c)
	first := a.Of(v1(c, "curl/7.61.1"))
	if first.Container != nil || first.Owner != (owner.Owner{Name: "infra", From: "instance.tag:team"}) {
		t.Errorf("%+v", first.Who)
	}
	if first.Client.Name != "curl" || first.Advice.Code != client.ReplaceCurl || !strings.Contains(strings.Join(first.Advice.Commands, "\n"), "instance-id") {
		t.Errorf("%+v: %+v", first.Client, first.Advice)
	}
	if again := a.Of(v1(c, "curl/7.61.1")); again.Who != first.Who || again.Client != first.Client || again.Advice != first.Advice {
		t.Error("who it is has changed, though nothing is new")
	}
	source.tell <- &container.Container{ID: containerID, Pod: &container.Pod{Name: "p", Labels: map[string]string{"team": "checkout"}}}
	for d.Get(containerID, "") == nil {
		time.Sleep(time.Millisecond)
	}
	later := a.Of(v1(c, "curl/7.61.1"))
	if later.Container == nil || later.Container.Pod.Name != "p" || later.Owner.Name != "checkout" {
		t.Errorf("%+v", later.Who)
	}
	if first.Container != nil || first.Owner.Name != "infra" {
		t.Error("what was handed out has changed")
	}
	r := a.Known(c.PID)
	if r == nil || r.V1 != 3 || r.V2 != 0 || r.Container == nil || r.Advice.Code != client.ReplaceCurl {
		t.Errorf("%+v", r)
	}
}

// The client is the one of each call: a process can have several.
func TestEachUserAgentHasItsClient(t *testing.T) {
	t.Parallel()
	a := New(Options{})
	c := curl()
	c.Executable = "/opt/app"
	for range 2 {
		for userAgent, want := range map[string]string{"curl/8.0": "curl", "Wget/1.21": "wget", "aws-sdk-go/1.19.0 (go1.13; linux; amd64)": "aws-sdk-go"} {
			if got := a.Of(v1(c, userAgent)); got.Client.Name != want {
				t.Errorf("%s: %+v", userAgent, got.Client)
			}
		}
	}
	long := strings.Repeat("x", 100<<10)
	a.Of(v1(c, long))
	a.Of(v1(c, long[:maxText]))
	s, _ := a.known.Peek(image{c.PID, c.Origin.Started, c.ExecID, 0})
	for _, claimed := range s.claims {
		if claimed != nil && len(claimed.userAgent) > maxText {
			t.Errorf("%d bytes of a User-Agent are kept", len(claimed.userAgent))
		}
	}
}

func TestV2CallsGetNoAdvice(t *testing.T) {
	t.Parallel()
	a := New(Options{})
	call := v1(curl(), "aws-cli/2.1")
	call.Kind = imds.V2
	if got := a.Of(call); got.Advice != nil {
		t.Errorf("%+v", got.Advice)
	}
}

func TestVariablesNameTheOwner(t *testing.T) {
	t.Parallel()
	rules := rules(t, "env:EMPTY env:TEAM env:DD_SERVICE")
	if got := fmt.Sprint(Variables(rules)); got != "[OTEL_SERVICE_NAME DD_SERVICE EMPTY TEAM]" {
		t.Error(got)
	}
	a := New(Options{Rules: rules})
	c := curl()
	c.Env = map[string]string{"TEAM": "checkout", "OTEL_SERVICE_NAME": "web"}
	if got := a.Of(v1(c, "")); got.Owner.Name != "checkout" || got.Service != "web" {
		t.Errorf("%+v", got.Who)
	}
}

func TestLoadedLibraryBeatsTheUserAgent(t *testing.T) {
	t.Parallel()
	c := curl()
	c.Executable, c.Program = "/usr/bin/python3.11", caller.Program{Interpreter: "python", Script: "/srv/job.py"}
	for _, tt := range []struct {
		userAgent, library, name, version string
		certainty                         software.Certainty
		want                              client.Confidence
	}{
		{"Python-urllib/3.11", "boto", "boto2", "2.49.0", software.Loaded, client.Certain},
		{"Python-urllib/3.11", "boto", "boto2", "2.49.0", software.Installed, client.Guess},
		{"Boto3/1.26.27 Python/3.11.2 Linux/6.1 Botocore/1.29.27", "boto3", "boto3", "1.26.27", software.Installed, client.Likely},
	} {
		runs := &software.Software{Libraries: []software.Library{
			{Ecosystem: software.PyPI, Name: tt.library, Version: tt.version, Certainty: tt.certainty},
		}}
		got := identify(evidence(v1(c, tt.userAgent), &Who{Software: runs}), runs)
		if got.Name != tt.name || got.Version != tt.version || got.Confidence != tt.want {
			t.Errorf("%s, %s %s: %s %s, %s", tt.userAgent, tt.library, tt.certainty, got.Name, got.Version, got.Confidence)
		}
	}
}

// Two libraries of which one knows v1 alone, and neither says its name: what fetches a token is the other.
func TestTokensAreOfWhatKnowsThem(t *testing.T) {
	t.Parallel()
	c := curl()
	c.Executable, c.Program = "/usr/bin/node", caller.Program{Interpreter: "node", Script: "/srv/app.js"}
	a := New(Options{})
	s := &subject{who: &Who{Software: &software.Software{Libraries: []software.Library{
		{Ecosystem: software.NPM, Name: "aws-sdk", Version: "2.400.0"},
		{Ecosystem: software.NPM, Name: "@aws-sdk/credential-provider-node", Version: "3.972.97"},
	}}}}
	for _, kind := range []imds.Kind{imds.TokenRequest, imds.V1, imds.V2, imds.V1} {
		call := v1(c, "")
		call.Kind = kind
		if got := s.claimOf(a, call).client; (got.Name == "aws-sdk-js-v3") != (kind != imds.V1) {
			t.Errorf("%v: %+v", kind, got)
		}
	}
}

// A program of Go knows its own version.
func TestBuildInfoHasTheVersion(t *testing.T) {
	t.Parallel()
	runs := &software.Software{Program: software.Program{Ecosystem: software.Go, Name: "github.com/jtblin/kube2iam", Version: "v0.10.9"}}
	if got := identify(evidence(v1(curl(), "Go-http-client/1.1"), &Who{Software: runs}), runs); got.Name != "kube2iam" || got.Version != "0.10.9" {
		t.Errorf("%+v", got)
	}
}
