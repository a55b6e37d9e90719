package e2e

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/simulator"
)

// instance is an EC2 instance: a lab and the metadata service that it reaches.
type instance struct {
	*lab.Lab
	imds    *simulator.Simulator
	runtime string // directory, where one bridge finds another
}

func newInstance(t *testing.T, options simulator.Options) *instance {
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
	sim, err := simulator.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	for _, address := range []string{"169.254.169.254:80", "[fd00:ec2::254]:80"} {
		listener, err := l.IMDS().Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if err := sim.Serve(listener); err != nil {
				t.Error(err)
			}
		}()
	}
	runtime, err := os.MkdirTemp(scratch, "run")
	if err != nil {
		t.Fatal(err)
	}
	return &instance{l, sim, runtime}
}

// requireTokens switches IMDSv1 off.
func (i *instance) requireTokens(t *testing.T) {
	t.Helper()
	options := i.imds.MetadataOptions()
	options.HTTPTokens = simulator.TokensRequired
	if err := i.imds.SetMetadataOptions(options); err != nil {
		t.Fatal(err)
	}
}

// ended is a process that has come to its end by itself.
type ended struct {
	*exec.Cmd
	stdout, stderr string
	err            error
}

// finish starts a process with one of the start functions of a namespace and waits for its end.
func finish(t *testing.T, start func(*exec.Cmd) error, cmd *exec.Cmd) ended {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := start(cmd); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	err := cmd.Wait()
	return ended{cmd, strings.TrimSpace(stdout.String()), strings.TrimSpace(stderr.String()), err}
}

// roleCredentials are what the metadata service hands out for the instance's role.
type roleCredentials struct{ AccessKeyID, SecretAccessKey, Token string }

const roles = "/latest/meta-data/iam/security-credentials/"

// role is the instance's in the built-in tree of the simulator.
const role = roles + "example-role"

// credentials asks the metadata service for the role's credentials, from where it is and as IMDSv2
// has it. The simulator forgets that it was asked.
func (i *instance) credentials(t *testing.T) (c roleCredentials) {
	t.Helper()
	token := i.ask(t, http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60")
	document := i.ask(t, http.MethodGet, role, "X-aws-ec2-metadata-token", string(token))
	if err := json.Unmarshal(document, &c); err != nil || c.AccessKeyID == "" || c.SecretAccessKey == "" || c.Token == "" {
		t.Fatalf("credentials of the simulator: %v in %s", err, document)
	}
	i.imds.Reset()
	return c
}

func (i *instance) ask(t *testing.T, method, path, name, value string) []byte {
	t.Helper()
	request, err := http.NewRequest(method, "http://169.254.169.254"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(name, value)
	client := http.Client{Transport: &http.Transport{DialContext: i.IMDS().DialContext}}
	defer client.CloseIdleConnections()
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s, %v", method, path, answer.Status, err)
	}
	return body.Bytes()
}

// await polls for a condition.
func await(t *testing.T, what string, patience time.Duration, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

// hasAddress reports whether an interface of the host has an address.
func (i *instance) hasAddress(t *testing.T, address string) (found bool) {
	t.Helper()
	if err := i.Host().Do(func() error {
		addresses, err := net.InterfaceAddrs()
		for _, a := range addresses {
			found = found || strings.HasPrefix(a.String(), address+"/")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}
