package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// The daemon is not there when the bridge starts, then may not be used, then may be; it is killed, and
// started again. What runs in its containers meanwhile calls as ever.
func TestAttributionOutlivesADaemon(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	d := i.startDocker(t, "--live-restore")
	d.load(t, callerClient(t))
	if err := os.Chmod(d.dir, 0o755); err != nil { // the socket alone decides who may use it
		t.Fatal(err)
	}
	socket := filepath.Join(d.dir, "later")
	flags := dockerAlone(socket)
	b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup, flags: flags})
	web := d.call(t, []string{"--name=web", "--label=team=checkout"})

	line := b.awaitCall(t, web, func(attributed) bool { return true })
	i.checkUnknown(t, b, line, web, flags, socket+": connect: no such file or directory: is the daemon running?")

	if err := os.Chown(d.socket, 1, 4); err != nil { // the bridge has given up CAP_DAC_OVERRIDE
		t.Fatal(err)
	}
	if err := os.Symlink(d.socket, socket); err != nil {
		t.Fatal(err)
	}
	const remedy = "permission denied: run the bridge with the group of the socket (adm)"
	b.awaitWarning(t, remedy)
	b.checkUnnamed(t, web)
	denied, _ := i.explainAs(t, &syscall.Credential{Uid: 1234, Gid: 1234}, b, fmt.Sprint(line.record.Caller.PID), flags...)
	if len(denied.Sources) != 1 || denied.Sources[0].Ready || !strings.Contains(denied.Sources[0].Error, remedy) || !strings.Contains(strings.Join(denied.Missing, " "), "CAP_SYS_PTRACE") {
		t.Errorf("explain to who may not ask: %+v", denied)
	}

	if err := os.Chown(d.socket, 0, 0); err != nil {
		t.Fatal(err)
	}
	b.awaitCall(t, web, named("web", "checkout"))
	b.awaitWatched(t, 1)

	d.kill(t)
	b.awaitWarning(t, "containers are not watched", "EOF")
	known := len(b.log())
	await(t, "it calls again", 30*time.Second, func() (ok bool) {
		line, ok = b.findAfter(t, known, func(a attributed) bool { return a.record.Caller.ContainerID == web.id })
		return ok
	})
	if !named("web", "checkout")(line) {
		t.Errorf("forgotten with its daemon: %s", line.raw)
	}
	x, _ := i.explain(t, b, fmt.Sprint(line.record.Caller.PID), flags...)
	x.checkUnknown(t, "image", "no source told of this container")
	x.checkSource(t, 0, socket+": connect: connection refused: is the daemon running?")

	d.start(t)
	next := d.call(t, []string{"--name=next", "--label=team=search"})
	b.awaitCall(t, next, named("next", "search"))
	b.awaitWatched(t, 2)
	b.awaitCall(t, web, named("web", "checkout"))
	for _, c := range []contained{web, next} {
		c.checkServed(t)
	}
	if warned := b.warnings(t, remedy); warned != 1 {
		t.Errorf("what is to be done is said %d times", warned)
	}
}

// Sources that never answer, forbid, send garbage, tell of other containers or of 10 MiB tell nothing
// that would be believed, and hold up neither calls nor each other.
func TestAttributionOutlivesItsSources(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	d := i.startDocker(t)
	d.load(t, callerClient(t))
	web := d.call(t, []string{"--name=web", "--label=team=checkout"})
	sources := []*source{
		d.startSource(t, silent),
		d.startSource(t, forbids),
		d.startSource(t, garbles),
		d.startSource(t, tells("stolen", strings.Repeat("0123456789abcdef", 4), "thieves")),
		d.startSource(t, tells("huge", web.id, strings.Repeat("x", 10<<20))),
	}
	var sockets []string
	for _, s := range sources {
		sockets = append(sockets, s.socket)
	}
	flags := dockerAlone(sockets...)
	b := i.startBridge(t, bridgeOptions{cgroup: d.cgroup, flags: flags})

	line := b.awaitCall(t, web, func(attributed) bool { return true })
	i.checkUnknown(t, b, line, web, flags, "it has not answered within 2s", `status 403: not for\x1b[2J you`, "invalid character", "", "")
	b.awaitWarning(t, "status 403")
	b.awaitWarning(t, "invalid character")
	b.checkUnnamed(t, web)

	for _, s := range sources[1:] {
		s.mend()
	}
	b.awaitCall(t, web, named("web", "checkout"))
	b.awaitWarning(t, "no answer from "+sockets[0]+" in time")
	sources[0].mend()
	for _, s := range sources {
		s.awaitWatched(t)
	}
	b.awaitWatched(t, len(sources))
	next := d.call(t, []string{"--name=next", "--label=team=search"})
	b.awaitCall(t, next, named("next", "search"))
	for _, c := range []contained{web, next} {
		c.checkServed(t)
	}
}

// checkUnnamed wants each line of a container to have its id, and nothing that sources tell.
func (b *bridge) checkUnnamed(t *testing.T, c contained) {
	t.Helper()
	if line, ok := b.find(t, func(a attributed) bool {
		who := a.Caller
		return a.record.Caller.ContainerID != "" && (a.record.Caller.ContainerID != c.id || who.Container.Name != "" || who.Container.Image != "" || who.Owner.Name != "")
	}); ok {
		t.Errorf("named, by nobody: %s", line.raw)
	}
}

// checkUnknown wants log and explain to say of a container what its processes show, and explain what is
// missing and why. The errors are of the sources.
func (i *instance) checkUnknown(t *testing.T, b *bridge, line attributed, c contained, flags []string, errors ...string) {
	t.Helper()
	b.checkUnnamed(t, c)
	if who := line.record.Caller; who.ContainerRuntime != "docker" || who.Exe != "/caller" || !who.Complete {
		t.Errorf("log line: %s", line.raw)
	}
	x, text := i.explain(t, b, fmt.Sprint(line.record.Caller.PID), flags...)
	x.check(t, "container", c.id+" of docker", "its cgroup")
	x.checkUnknown(t, "image", "no source told of this container: see what is below")
	x.checkUnknown(t, "owner", "no rule of attribution.owner finds one")
	if len(x.Sources) != len(errors) || strings.Contains(text, "\x1b") {
		t.Errorf("explain:\n%s", text)
	}
	for n, err := range errors {
		x.checkSource(t, n, err)
	}
}
