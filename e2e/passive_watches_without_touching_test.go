package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// TestPassiveWatchesWithoutTouching: with redirector none IMDS sees what clients send, byte for byte,
// and each call is told as the proxy would tell it.
func TestPassiveWatchesWithoutTouching(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		client  client
		version string
	}{
		"curl":             {curlAt("http://169.254.169.254" + role), "v1"},
		"curl over IPv6":   {curlAt("http://[fd00:ec2::254]" + role), "v1"},
		"boto2, v1 alone":  {client{args: []string{debianPython, "clients/boto2/credentials.py"}, agent: "Python-urllib/3."}, "v1"},
		"boto3, speaks v2": {client{args: []string{debianPython, "clients/boto3/credentials.py"}, agent: "Boto3/1."}, "v2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInstance(t, simulator.Options{})
			key := i.credentials(t).AccessKeyID
			var watching atomic.Pointer[bridge]
			test.client.args = staying(test.client.args, i.waitingRoom(t, &watching))
			_, direct := i.watch(t, i.Host().StartOutside, test.client, key)

			b := i.startBridge(t, bridgeOptions{flags: []string{"--redirector=none"}})
			watching.Store(b)
			process, watched := i.watch(t, i.Host().Start, test.client, key)
			if len(watched) != len(direct) {
				t.Fatalf("requests that reached IMDS\n%v\nwithout the bridge\n%v", heads(watched), heads(direct))
			}
			for n := range direct {
				checkSame(t, direct[n], watched[n])
			}
			lines := b.calls(t, len(direct), pid(process.Process.Pid))
			checkLogged(t, lines, direct)
			for _, line := range lines {
				checkNamed(t, line, process, test.client)
				if line.Upgraded || line.Verdict != "pass" || line.Reason != "watched" {
					t.Errorf("log line: %s", line.raw)
				}
				if line.Version != test.version && line.Version != "token" {
					t.Errorf("version %s, want %s: %s", line.Version, test.version, line.raw)
				}
			}
			_, metrics := b.get("/metrics")
			if !strings.Contains(metrics, `imds_version="`+test.version+`"`) {
				t.Errorf("no %s calls among the metrics", test.version)
			}
			if i.hasAddress(t, listenAddresses[0]) {
				t.Error("a bridge that only watches listens")
			}
		})
	}
}

// staying is a client that asks for one more URL before it ends. One that ends with its answer can be gone, on
// a busy machine, before it is named by more than the kernel's record.
func staying(args []string, url string) []string {
	if args[0] == "curl" {
		return append(args, url)
	}
	const program = "import atexit, runpy, sys, urllib.request; " +
		"atexit.register(urllib.request.urlopen, sys.argv[2]); " +
		"runpy.run_path(sys.argv[1], run_name='__main__')"
	return []string{args[0], "-c", program, args[1], url}
}

// waitingRoom is a URL that keeps whoever asks for it until the bridge, if there is one, has told of a call.
func (i *instance) waitingRoom(t *testing.T, watching *atomic.Pointer[bridge]) (url string) {
	t.Helper()
	l, err := i.Host().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		told := func() bool {
			b := watching.Load()
			return b == nil || strings.Contains(strings.Join(b.log(), "\n"), `"msg":"imds call"`)
		}
		for deadline := time.Now().Add(4 * time.Second); !told() && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		}
	}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}
