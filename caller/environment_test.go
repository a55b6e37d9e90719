package caller

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Of a real process the variables that are named are read, and no others.
func TestNamedVariablesAlone(t *testing.T) {
	t.Parallel()
	p := start(t, "wait", func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, "DD_SERVICE=shop\x1b[2J", "AWS_SECRET_ACCESS_KEY=secret", "TEAM=checkout", "EMPTY=",
			"PADDING="+strings.Repeat("x", 50<<10), "LONG="+strings.Repeat("x", 50<<10), "OTEL_SERVICE_NAME=web")
	})
	o := origin(t, p.pid)
	c := named(t, newReader(t, Options{Env: []string{"OTEL_SERVICE_NAME", "DD_SERVICE", "TEAM", "EMPTY", "LONG", "ABSENT"}}), o)
	if len(c.Env) != 4 || c.Env["TEAM"] != "checkout" || c.Env["OTEL_SERVICE_NAME"] != "web" || strings.Contains(c.Env["DD_SERVICE"], "\x1b") || len(c.Env["LONG"]) > maxValue {
		t.Errorf("%q", c.Env)
	}
	for _, names := range [][]string{nil, {"ABSENT"}} {
		if c := named(t, newReader(t, Options{Env: names}), o); c.Env != nil {
			t.Errorf("%q", c.Env)
		}
	}
}

func TestHalfAVariableIsNone(t *testing.T) {
	t.Parallel()
	proc, _ := newFake(t)
	p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app", exe: "/app"}
	proc.put(t, p)
	const first = "A=a\x00"
	proc.write(t, 10, "environ", first+"PADDING="+strings.Repeat("x", maxEnv-len(first)-len("PADDING=")-len("\x00TEAM=check"))+"\x00TEAM=checkout\x00")
	c := newReader(t, Options{Proc: string(proc), Env: []string{"A", "TEAM"}}).Caller(p.origin())
	if len(c.Env) != 1 || c.Env["A"] != "a" {
		t.Errorf("%q", c.Env)
	}
}

// Of a long value no more than the beginning is kept, so that its end is not missed.
func TestHalfALongVariableIsEnough(t *testing.T) {
	t.Parallel()
	proc, _ := newFake(t)
	p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app", exe: "/app"}
	proc.put(t, p)
	proc.write(t, 10, "environ", "PADDING="+strings.Repeat("x", maxEnv/2)+"\x00TEAM=web"+strings.Repeat("x", maxEnv)+"\x00")
	c := newReader(t, Options{Proc: string(proc), Env: []string{"TEAM"}}).Caller(p.origin())
	if got := c.Env["TEAM"]; !strings.HasPrefix(got, "webxxx") || len(got) > 2*maxValue {
		t.Errorf("%q", c.Env)
	}
}

// A process whose memory map is locked lets readers of its environment hang, and its pid may be another's
// by the time that it answers.
func TestEnvironmentIsReadWithPatience(t *testing.T) {
	t.Parallel()
	proc, _ := newFake(t)
	r := newReader(t, Options{Proc: string(proc), Env: []string{"TEAM"}})
	p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app", exe: "/app"}
	proc.put(t, p)
	pipe := proc.path(10, "environ")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil { // opening it waits for a writer
		t.Fatal(err)
	}
	begin := time.Now()
	onlyRecorded(t, r.Caller(p.origin()), p.origin())
	if waited := time.Since(begin); waited < patience || waited > 20*patience {
		t.Errorf("waited %v", waited)
	}

	next := p
	next.ticks = 200
	proc.put(t, next)
	answer := func(text string) {
		t.Helper()
		writer, err := os.OpenFile(pipe, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := writer.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := writer.Close(); err != nil {
			t.Fatal(err)
		}
	}
	answer("TEAM=another\x00")
	onlyRecorded(t, r.Caller(p.origin()), p.origin())

	go r.Caller(next.origin())
	answer("TEAM=checkout\x00")
	if c := named(t, r, next.origin()); c.Env["TEAM"] != "checkout" {
		t.Errorf("%q", c.Env)
	}
}

// Many a server writes its title over its environment.
func TestEnvironmentIsThatOfTheStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		proc, _ := newFake(t)
		r := newReader(t, Options{Proc: string(proc), Env: []string{"TEAM"}})
		p := fakeProcess{pid: 10, ppid: 1, ticks: 100, comm: "app", exe: "/app", args: []string{"app"}}
		proc.put(t, p)
		proc.write(t, 10, "environ", "TEAM=checkout\x00")
		r.Caller(p.origin())
		p.args = []string{"app: idle"}
		proc.put(t, p)
		proc.write(t, 10, "environ", "idle\x00TEAM=forged\x00")
		time.Sleep(refreshAfter + time.Second)
		r.Caller(p.origin())
		synctest.Wait()
		if c := r.Caller(p.origin()); c.Args[0] != "app: idle" || c.Env["TEAM"] != "checkout" {
			t.Errorf("%q %q", c.Args, c.Env)
		}
	})
}
