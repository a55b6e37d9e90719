//go:build root

package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// callsRole makes a child of this binary a workload that makes the calls that are its value.
const callsRole = "IMDS_BRIDGE_TEST_CALLS"

func init() {
	kinds := strings.Fields(os.Getenv(callsRole))
	if len(kinds) == 0 {
		return
	}
	if err := json.NewEncoder(os.Stdout).Encode(callUntil(os.Stdin, kinds)); err != nil {
		panic(err)
	}
	os.Exit(0)
}

// callCounts are what became of the calls of a workload.
type callCounts struct {
	Calls, Failed int
	Straight      int      // v1 calls that IMDS itself refused, for it requires tokens
	Refused       int      // by connect()
	Errors        []string // the first ones
	Slowest       time.Duration
}

const fewCalls = 20

// callPatience is longer than that of an SDK, which is a second: a restart, which keeps a call waiting for
// a fifth of one, takes its time on a machine that runs other tests besides.
const callPatience = 3 * time.Second

// callUntil makes calls of all kinds in turn, each on a connection of its own, until in ends, and at
// least a few.
func callUntil(in io.Reader, kinds []string) (c callCounts) {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(ended)
	}()
	for {
		select {
		case <-ended:
			if c.Calls >= fewCalls {
				return c
			}
		default:
		}
		for _, kind := range kinds {
			start := time.Now()
			err := call(kind)
			c.Slowest = max(c.Slowest, time.Since(start))
			c.Calls++
			if err != nil {
				c.Failed++
				switch {
				case kind == "v1" && errors.Is(err, errUnauthorized):
					c.Straight++
				case errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ECONNREFUSED):
					c.Refused++
				}
				if len(c.Errors) < 5 {
					c.Errors = append(c.Errors, kind+": "+err.Error())
				}
			}
		}
	}
}

func call(kind string) (err error) {
	token := ""
	if kind == "v2" {
		if token, err = ask(http.MethodPut, "api/token", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60"); err != nil {
			return err
		}
	}
	_, err = ask(http.MethodGet, "meta-data/instance-id", "X-Aws-Ec2-Metadata-Token", token)
	return err
}

var errUnauthorized = errors.New("401 Unauthorized")

func ask(method, path, name, value string) (string, error) {
	request, err := http.NewRequest(method, "http://169.254.169.254/latest/"+path, nil)
	if err != nil {
		return "", err
	}
	if value != "" {
		request.Header.Set(name, value)
	}
	client := http.Client{Timeout: callPatience, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode == http.StatusUnauthorized {
		err = errUnauthorized
	}
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return string(body), err
}

// calls starts a stream of calls on the host, and returns what ends it.
func (m *machine) calls(t *testing.T, kinds string) (stop func(*testing.T) callCounts) {
	t.Helper()
	workload := exec.Command("/proc/self/exe")
	workload.Env = []string{callsRole + "=" + kinds}
	var out bytes.Buffer
	workload.Stdout, workload.Stderr = &out, os.Stderr
	in, err := workload.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Host().Start(workload); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return func(t *testing.T) (c callCounts) {
		t.Helper()
		in.Close()
		if err := workload.Wait(); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d calls, the slowest took %s", kinds, c.Calls, c.Slowest)
		return c
	}
}

// expectNone fails the test if a call failed.
func (c callCounts) expectNone(t *testing.T, during string) {
	t.Helper()
	if c.Failed > 0 || c.Calls < fewCalls {
		t.Errorf("%s: %d of %d calls failed: %q", during, c.Failed, c.Calls, c.Errors)
	}
}
