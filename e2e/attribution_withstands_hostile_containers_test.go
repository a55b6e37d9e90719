package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// What clears a terminal, names its window, begins a line of the log and turns the direction of text, and
// how that is shown.
const (
	steering = "\x1b[2J\x1b]0;owned\a\r\n{\"level\":\"ERROR\",\"msg\":\"imds call\"}\u202e\u2028\x7f"
	spelt    = `\x1b[2J\x1b]0;owned\a\r\n{"level":"ERROR","msg":"imds call"}\u202e\u2028\x7f`
)

// Who makes a container writes its labels, arguments and variables. Whatever is in them, a line stays a
// line, a terminal is not steered, and what is right in them is told.
func TestAttributionWithstandsHostileContainers(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	d := i.startDocker(t)
	d.load(t, callerClient(t))
	c := i.startCollector(t)
	// Docker's labels are UTF-8; what somebody else's daemon says need not be.
	s := d.startSource(t, nil)
	s.daemon.ModifyResponse = invalid
	s.mend()
	flags := dockerAlone(s.socket)
	b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup, flags: flags, env: c.env()})

	long := strings.Repeat("x", 100<<10)
	labels := d.call(t, []string{"--name=labels", "--label=team=checkout" + steering + long, "--label=com.docker.compose.service=¤shop",
		"--label=key\x1b[2J\u202e=value", "--label=long=" + long})
	environment := d.call(t, []string{"--name=environment", "--label=team=search", "--env=OTEL_SERVICE_NAME=web" + steering + long, "--env=PADDING=" + long},
		"harmless", "argument"+steering+long)

	line := b.awaitCall(t, labels, func(a attributed) bool { return a.Caller.Container.Name == "labels" })
	if who := line.Caller; !strings.HasPrefix(who.Owner.Name, "checkout"+spelt+"xxx") || who.Owner.From != "container.label:team" || len(who.Owner.Name) > 256 ||
		who.Service != "\ufffd\ufffdshop" || who.Container.Image != "caller:latest" {
		t.Errorf("log line: %s", line.raw)
	}
	x, text := i.explain(t, b, fmt.Sprint(line.Caller.PID), flags...)
	checkHarmless(t, "explain", text)
	x.check(t, "owner", line.Caller.Owner.Name, "container.label:team")
	x.check(t, "service", "\ufffd\ufffdshop", "com.docker.compose.service")
	x.checkHas(t, "labels", `key\x1b[2J\u202e=value`, "long=xxx", "team=checkout"+spelt)
	awaitSpan(t, c, line, map[string]any{"imds.owner.name": line.Caller.Owner.Name, "service.peer.name": "\ufffd\ufffdshop", "container.name": "labels"})

	line = b.awaitCall(t, environment, named("environment", "search"))
	if who := line.Caller; !strings.HasPrefix(who.Service, "web"+spelt) || len(who.Service) > 512 {
		t.Errorf("log line: %s", line.raw)
	}
	args := line.record.Caller.Args
	if !slices.Contains(args, "harmless") || !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "argument"+spelt) }) {
		t.Errorf("arguments: %q", args)
	}
	x, text = i.explain(t, b, "environment", flags...)
	checkHarmless(t, "explain", text)
	x.check(t, "service", line.Caller.Service, "env:OTEL_SERVICE_NAME")
	x.checkHas(t, "arguments", "harmless argument"+spelt)
	awaitSpan(t, c, line, map[string]any{"service.peer.name": line.Caller.Service, "container.name": "environment"})

	status, metrics := b.get("/metrics")
	if checkHarmless(t, "/metrics", metrics); status != 200 || !strings.Contains(metrics, `imds_owner_name="checkout`) {
		t.Errorf("/metrics: status %d, %s", status, metrics)
	}
	for _, line := range b.log() {
		if checkHarmless(t, "the log", line); len(line) > 16<<10 {
			t.Errorf("a line of %d bytes: %.2000s", len(line), line)
		}
	}
	for _, of := range []contained{labels, environment} {
		of.checkServed(t)
	}
}

// checkHarmless wants text that steers no terminal and no reader of lines.
func checkHarmless(t *testing.T, where, text string) {
	t.Helper()
	if at := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); at >= 0 || !utf8.ValidString(text) {
		t.Errorf("%s: byte %d of %.2000q", where, at, text)
	}
}
