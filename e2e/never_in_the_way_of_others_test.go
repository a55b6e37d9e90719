package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var silentClient = built("silent", ".", "./clients/silent")

// user is one of many, and none of them the stream's.
func user(n int) *syscall.Credential {
	return &syscall.Credential{Uid: uint32(60_000 + n), Gid: 60_000}
}

// 10,000 connections that send nothing, of one process, of many processes of one user, and of many users.
func TestNeverInTheWayOfOthersWithSilentConnections(t *testing.T) {
	for _, c := range crowds {
		t.Run(c.name, func(t *testing.T) { withHook(t, false, c.check) })
	}
}

func TestFailClosedWithSilentConnections(t *testing.T) { withHook(t, true, crowds[0].check) }

// crowd is who holds the connections.
type crowd struct {
	name             string
	processes, users int
}

var crowds = []crowd{
	{"one process", 1, 1},
	{"twenty processes", 20, 1},
	{"twenty users", 20, 20},
}

func (c crowd) check(t *testing.T, s setting) {
	const (
		connections = 10_000
		within      = 3 * time.Second // they are opened: faster than any accident
	)
	i := newFaultyInstance(t)
	b, callers := s.begin(t, i)
	quiet := period{from: time.Now()}
	var silent []*silentProcess
	for n := range c.processes {
		silent = append(silent, i.launchSilent(t, connections/c.processes, within/connections*time.Duration(c.processes), user(n%c.users)))
	}
	open := 0
	for _, p := range silent {
		open += p.open(t)
	}
	time.Sleep(2 * time.Second)
	quiet.to = time.Now()
	t.Logf("%d connections were open, the bridge's resident set is %s", open, b.resident(t))
	for _, p := range silent {
		p.stop(t)
	}
	callers.awaitBridged(t, 5*time.Second)
	s.checkOthers(t, "10,000 silent connections of "+c.name, callers.stop(t), quiet)
}

// One process calls as fast as it can, with more at once than its share.
func TestNeverInTheWayOfOthersInAFlood(t *testing.T) { withHook(t, false, checkFlood) }

func TestFailClosedInAFlood(t *testing.T) { withHook(t, true, checkFlood) }

func checkFlood(t *testing.T, s setting) {
	i := newFaultyInstance(t)
	_, callers := s.begin(t, i)
	high := period{from: time.Now()}
	flood := i.startCaller(t, user(0), "-every=0", "-at-once=200")
	time.Sleep(3 * time.Second)
	high.to = time.Now()
	flood.input.Close()
	if err := <-flood.done; err != nil {
		t.Error(err)
	}
	if n := len(flood.calls().within(high)); n < 1000 {
		t.Errorf("the flood was of %d calls: this test saw nothing", n)
	}
	callers.awaitBridged(t, 5*time.Second)
	s.checkOthers(t, "flood by one caller", callers.stop(t), high)
}

// checkOthers wants all calls of others to be answered in good time. Where the machine has no time left
// for the bridge some go straight, which shows by those of IMDSv1, or are refused, whichever they are.
func (s setting) checkOthers(t *testing.T, fault string, made calls, during period) {
	t.Helper()
	o := s.outcome(fault, 1)
	o.count(made)
	o.tell(t)
	s.checkLost(t, made, nil)
	others := made.within(during)
	if away := others.that(s.away).kind("v1"); len(away) > len(others)/4 {
		t.Errorf("of %d calls these found no bridge: %s", len(others), away)
	}
	p50, p99 := others.percentile(50), others.percentile(99)
	if p99 > untilStraight {
		t.Errorf("one call in a hundred took longer than %s", p99)
	}
	t.Logf("half of the others' calls took %s or less, 99 in 100 %s", p50, p99)
}

// silentProcess holds connections on which nothing is said. See clients/silent.
type silentProcess struct {
	cmd    *exec.Cmd
	input  io.Closer
	output *bufio.Reader
}

func (i *instance) launchSilent(t *testing.T, connections int, every time.Duration, as *syscall.Credential) *silentProcess {
	t.Helper()
	cmd := exec.Command(silentClient(t), fmt.Sprint("-connections=", connections), fmt.Sprint("-every=", every))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Host().Start(cmd); err != nil {
		t.Fatal(err)
	}
	return &silentProcess{cmd, input, bufio.NewReader(output)}
}

// startSilent returns once all connections have been tried.
func (i *instance) startSilent(t *testing.T, connections int, as *syscall.Credential) *silentProcess {
	t.Helper()
	p := i.launchSilent(t, connections, 0, as)
	p.open(t)
	return p
}

// open waits until all connections have been tried, and tells how many are open then.
func (p *silentProcess) open(t *testing.T) int {
	t.Helper()
	line, err := p.output.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (p *silentProcess) stop(t *testing.T) {
	t.Helper()
	p.input.Close()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("a silent process: %v", err)
	}
}

// resident is the bridge's resident set.
func (b *bridge) resident(t *testing.T) string {
	t.Helper()
	return status(t, fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))["VmRSS"]
}
