package e2e

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/simulator"
)

// TestOtherMachinesGetNothingFromRules: a machine behind a VPN of the host, whose packets come by a link
// without a default route as a container's do, is not served by the bridge. What it had before, it has.
func TestOtherMachinesGetNothingFromRules(t *testing.T) {
	t.Parallel()
	t.Run("behind a tunnel that was there", func(t *testing.T) {
		t.Parallel()
		i := newInstance(t, simulator.Options{})
		outside := i.addUnseen(t, "outside")
		i.layTunnel(t, outside)
		b := i.startBridge(t, bridgeOptions{flags: []string{byRules}})
		if status := statusFrom(outside); status != http.StatusOK {
			t.Errorf("a call that this host forwards gets %d", status)
		}
		if got := i.imds.Counts(); got.V1 != 1 {
			t.Errorf("IMDS saw %+v, want one call as it came", got)
		}
		b.checkConnects(t, "redirected", 1) // the self-check
	})
	t.Run("behind one that is laid later", func(t *testing.T) {
		t.Parallel()
		i := newInstance(t, simulator.Options{})
		outside := i.addUnseen(t, "outside")
		b := i.startBridge(t, bridgeOptions{flags: []string{byRules, "--containers.v1=upgrade"}})
		i.layTunnel(t, outside)
		if status := statusFrom(outside); status != http.StatusMisdirectedRequest {
			t.Errorf("a call of another machine gets %d", status)
		}
		if got := i.imds.Counts(); got.V1+got.V2 != 0 {
			t.Errorf("IMDS saw %+v, want nothing", got)
		}
		b.checkConnects(t, "outside", 1)
		await(t, "a log line that names the reason", 5*time.Second, func() bool {
			for _, line := range b.records(t) {
				if line.Status == http.StatusMisdirectedRequest && strings.Contains(line.raw, "tun0 (tuntap)") && strings.Contains(line.raw, "another machine") {
					return true
				}
			}
			return false
		})
		// A container of the host, which nobody sees either, gets what it had.
		if status := statusFrom(i.addUnseen(t, "container")); status != http.StatusOK {
			t.Errorf("a call of a container that is not seen gets %d", status)
		}
	})
}

// addUnseen adds what is a machine of its own for those who look for processes: no process is in it.
func (i *instance) addUnseen(t *testing.T, name string) *lab.Namespace {
	t.Helper()
	n, err := i.AddContainer(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// statusFrom makes a call by IMDSv1 from a namespace, and not by a process there. It takes an answer that comes
// before the request. 0 is none.
func statusFrom(n *lab.Namespace) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := n.DialContext(ctx, "tcp", "169.254.169.254:80")
	if err != nil {
		return 0
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	answer.Body.Close()
	return answer.StatusCode
}

func (b *bridge) checkConnects(t *testing.T, outcome string, want int) {
	t.Helper()
	_, metrics := b.get("/metrics")
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "imds_connects_total{") && strings.Contains(line, `imds_outcome="`+outcome+`"`) {
			if got := strings.Fields(line)[1]; got != strconv.Itoa(want) {
				t.Errorf("%s connections: %s, want %d", outcome, got, want)
			}
			return
		}
	}
	t.Errorf("no connections are counted as %s:\n%s", outcome, metrics)
}
