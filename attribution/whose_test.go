package attribution

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/caller/software"
	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/imds/client"
)

// A curl is its script's, and a job's no more than its own.
func TestScriptOfWhatCalls(t *testing.T) {
	t.Parallel()
	shell := func(pid int, script string) caller.Process {
		return caller.Process{PID: pid, Comm: "sh", Executable: "/usr/bin/dash", Script: script}
	}
	cron := caller.Process{PID: 9, Comm: "cron", Executable: "/usr/sbin/cron"}
	supervisor := caller.Process{PID: 9, Comm: "supervisord", Executable: "/usr/bin/python3.11", Script: "/usr/bin/supervisord"}
	for name, tt := range map[string]struct {
		program   caller.Program
		ancestors []caller.Process
		starter   caller.Starter
		want      string
	}{
		"its own":                   {program: caller.Program{Interpreter: "bash", Script: "/opt/a.sh"}, ancestors: []caller.Process{shell(5, "/opt/b.sh")}, want: "/opt/a.sh"},
		"text, and no script":       {program: caller.Program{Interpreter: "bash", Script: "-c"}, ancestors: []caller.Process{shell(5, "/opt/b.sh")}, want: "/opt/b.sh"},
		"its parent's":              {ancestors: []caller.Process{shell(5, "/opt/b.sh"), cron}, starter: caller.Starter{Kind: caller.StartedByCron, PID: 9}, want: "/opt/b.sh"},
		"the nearest":               {ancestors: []caller.Process{shell(5, "-c"), shell(6, "/opt/b.sh"), shell(7, "/opt/c.sh")}, want: "/opt/b.sh"},
		"not what starts others":    {ancestors: []caller.Process{supervisor}, starter: caller.Starter{Kind: caller.StartedBySupervisor, PID: 9}},
		"nor what is above":         {ancestors: []caller.Process{cron, shell(10, "/opt/boot.sh")}, starter: caller.Starter{Kind: caller.StartedByCron, PID: 9}},
		"a container's first":       {ancestors: []caller.Process{shell(5, "/entrypoint.sh"), shell(6, "/outside.sh")}, starter: caller.Starter{Kind: caller.StartedByEntrypoint, PID: 5}, want: "/entrypoint.sh"},
		"nothing that is a script":  {ancestors: []caller.Process{cron}},
		"nothing known of ancestor": {},
	} {
		c := curl()
		c.Program, c.Ancestors, c.Starter = tt.program, tt.ancestors, tt.starter
		if got := scriptOf(c); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// What everybody calls by tells nothing of who calls.
func TestPackageOfWhatCalls(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		executable, interpreter, of, script, want string
	}{
		{executable: "/usr/bin/curl", of: "curl"},
		{executable: "/usr/bin/python3.11", interpreter: "python3", of: "python3.11-minimal"},
		{executable: "/usr/bin/python3.11", interpreter: "python3", of: "python3.11-minimal", script: "s3cmd", want: "s3cmd"},
		{executable: "/usr/bin/s3fs", of: "s3fs", want: "s3fs"},
	} {
		c := curl()
		c.Executable, c.Program.Interpreter = tt.executable, tt.interpreter
		runs := &software.Software{Package: software.Package{Name: tt.of}, ScriptPackage: software.Package{Name: tt.script}}
		if got := packageThatCalls(c, runs); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// A process asks for a token, which does not reach it, and goes on by v1: that is not Boto 2, which lies beside.
func TestCallAfterATokenInVainIsOfWhoAsked(t *testing.T) {
	t.Parallel()
	c := curl()
	c.Executable, c.Program = "/usr/bin/python3.11", caller.Program{Interpreter: "python3", Script: "/app/report.py"}
	runs := &software.Software{Libraries: []software.Library{{Ecosystem: software.PyPI, Name: "boto", Version: "2.49.0"}}}
	for _, asked := range []bool{false, true} {
		a := New(Options{})
		s := &subject{who: &Who{Software: runs}}
		if asked {
			s.history.Add(client.Call{Kind: imds.TokenRequest, Status: 200, OtherNetwork: true})
		}
		call := v1(c, "Python-urllib/3.11")
		s.history.Add(client.Call{At: call.Start, Kind: call.Kind, Path: call.Path, Route: call.Route, Status: 200, Answered: true, OtherNetwork: true})
		got := s.claimOf(a, call).client
		advice := a.advise(call, got, &s.history)
		if (got.Name == "boto2") == asked || (advice.Code == client.RaiseHops) != asked {
			t.Errorf("asked %t: %+v, %+v", asked, got, advice)
		}
	}
}

func TestOfNobodyThereIsAdvice(t *testing.T) {
	t.Parallel()
	a := New(Options{})
	if got := a.Of(v1(nil, "curl/7.61.1")); got.Advice == nil || got.Advice.Code != client.ReplaceCurl {
		t.Errorf("%+v", got.Advice)
	}
	call := v1(nil, "curl/7.61.1")
	call.Kind = imds.V2
	if got := a.Of(call); got.Advice != nil {
		t.Errorf("%+v", got.Advice)
	}
}

// Files in a container have what names its image likes, and units of a user's own manager what the user likes.
func TestOwnersOfTheHostAreForTheHost(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "owners.csv")
	if err := os.WriteFile(file, []byte("executable,/opt/acme/*,acme\nunit,nightly,batch\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mapping, err := owner.LoadMapping(file)
	if err != nil {
		t.Fatal(err)
	}
	a := New(Options{Rules: rules(t, "file unit"), Mapping: mapping})
	for want, c := range map[string]*caller.Caller{
		"acme":  {Executable: "/opt/acme/agent", Place: &caller.Place{}},
		"batch": {Executable: "/usr/bin/agent", Place: &caller.Place{Unit: "nightly.service"}},
		"":      {Executable: "/opt/acme/agent", ContainerID: containerID, Place: &caller.Place{Unit: "nightly.service", UserUnit: true}},
	} {
		if got := a.who(c, &subject{}, nil, nil); got.Owner.Name != want {
			t.Errorf("%+v: %+v, want %q", c, got.Owner, want)
		}
	}
}

// Advice is shared by processes, but not by one that gets tokens with one that has asked for none.
func TestAdviceIsNotSharedWithWhoGetsTokens(t *testing.T) {
	t.Parallel()
	a := New(Options{})
	call := v1(curl(), "aws-sdk-go/1.44.0 (go1.20; linux; amd64)")
	by := a.stranger(call.UserAgent)
	var with, without client.History
	with.Add(client.Call{At: call.Start, Kind: imds.TokenRequest, Status: 200, Answered: true})
	for _, h := range []*client.History{&without, &with} {
		h.Add(client.Call{At: call.Start, Kind: imds.V1, Path: call.Path, Status: 200, Answered: true})
	}
	if one, other := a.advise(call, by, &without), a.advise(call, by, &with); one.Text == other.Text {
		t.Errorf("both are told %q", one.Text)
	}
}
