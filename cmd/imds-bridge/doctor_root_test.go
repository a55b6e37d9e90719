//go:build root

package main

import (
	"encoding/json"
	"errors"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/doctor"
	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/simulator"
)

// newDoctorsHost is a lab with a metadata service.
func newDoctorsHost(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	sim, err := simulator.New(simulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	for _, at := range []string{"169.254.169.254:80", "[fd00:ec2::254]:80"} {
		listener, err := l.IMDS().Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		go func(l net.Listener) { _ = sim.Serve(l) }(listener)
	}
	return l
}

// doctorSays runs the doctor on the host, and returns its report and exit code.
func doctorSays(t *testing.T, l *lab.Lab, program string, args ...string) (r doctor.Report, code int) {
	t.Helper()
	cmd := exec.Command(program, append([]string{"doctor", "--output", "json", "--redirect.cgroup", l.Cgroup()}, args...)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := l.Host().StartOutside(cmd); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
		t.Fatalf("%v: %s%s", err, out.String(), errs.String())
	}
	return r, cmd.ProcessState.ExitCode()
}

func TestDoctorJudgesAHost(t *testing.T) {
	program := buildDemo(t)
	l := newDoctorsHost(t)
	if r, code := doctorSays(t, l, program); code != 0 || r.Verdict != doctor.Usable || r.Redirector != doctor.EBPF {
		t.Errorf("a clean host: exit code %d, %+v", code, r)
	}
	if r, code := doctorSays(t, l, program, "--upstream.ipv4", "169.254.169.254:81"); code != 2 || r.Verdict != doctor.Useless {
		t.Errorf("a silent metadata service: exit code %d, %+v", code, r)
	}
	if _, err := l.AddContainer("one"); err != nil {
		t.Fatal(err)
	}
	rule := exec.Command("iptables", "-A", "DOCKER-USER", "-d", "169.254.169.254", "-j", "DROP")
	chain := exec.Command("iptables", "-N", "DOCKER-USER")
	for _, cmd := range []*exec.Cmd{chain, rule} {
		if err := l.Host().StartOutside(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if r, code := doctorSays(t, l, program); code != 1 || r.Verdict != doctor.Limited {
		t.Errorf("a rule for containers: exit code %d, %+v", code, r)
	}
}

// A bridge that runs is no illness, and the doctor proves its word beside it.
func TestDoctorBesideABridge(t *testing.T) {
	program := buildDemo(t)
	l := newDoctorsHost(t)
	bridge := exec.Command(program, "run", "--redirect.cgroup", l.Cgroup(), "--admin.listen", "")
	errs, err := bridge.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Host().StartOutside(bridge); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = bridge.Process.Signal(syscall.SIGTERM)
		_ = bridge.Wait()
	}()
	ready := make(chan bool, 1)
	go func() {
		var log strings.Builder
		buffer := make([]byte, 4096)
		for {
			n, err := errs.Read(buffer)
			log.Write(buffer[:n])
			if strings.Contains(log.String(), `"msg":"ready"`) {
				select {
				case ready <- true:
				default:
				}
			}
			if err != nil {
				return
			}
		}
	}()
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("the bridge is not ready")
	}
	r, code := doctorSays(t, l, program)
	if code != 0 || r.Redirector != doctor.EBPF {
		t.Errorf("exit code %d, %+v", code, r)
	}
	found := map[string]string{}
	for _, f := range r.Findings {
		found[f.Check] += f.Found + "; "
	}
	for check, want := range map[string]string{
		"bridges": "one runs", "listener": "taken by imds-bridge", "hooks": "programs of a bridge",
		"imds": "hands out tokens", "hop-limit": "1: the token", "trial-ebpf": "came to a listener of ours",
	} {
		if !strings.Contains(found[check], want) {
			t.Errorf("%s: %q, want %q", check, found[check], want)
		}
	}
}
