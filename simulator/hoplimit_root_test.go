//go:build root

package simulator

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
)

// The real thing: the service behind a wire of its own, the instance one hop away and a container
// behind the instance, over IPv4 and IPv6.
func TestHopLimitKeepsTokensFromContainers(t *testing.T) {
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	container, err := l.AddContainer("hops")
	if err != nil {
		t.Fatal(err)
	}
	if !l.HasIPv6() {
		t.Fatal("this kernel has no IPv6, so half of the test cannot run")
	}
	sim, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Close() })
	addresses := []string{"169.254.169.254:80", "[fd00:ec2::254]:80"}
	for _, address := range addresses {
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
	const (
		put = "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n"
		get = "GET /latest/meta-data/instance-id HTTP/1.1\r\n\r\n"
	)
	for hops, reached := range map[int]bool{1: false, 2: true} {
		if err := sim.SetMetadataOptions(MetadataOptions{HTTPPutResponseHopLimit: hops}); err != nil {
			t.Fatal(err)
		}
		for _, address := range addresses {
			for name, call := range map[string]struct {
				from    *lab.Namespace
				request string
				reached bool
			}{
				"host PUT":      {l.Host(), put, true},
				"host GET":      {l.Host(), get, true},
				"container PUT": {container, put, reached},
				"container GET": {container, get, true},
			} {
				if got := answered(t, call.from, address, call.request, call.reached); got != call.reached {
					t.Errorf("hop limit %d, %s to %s: answered %t", hops, name, address, got)
				}
			}
		}
	}
}

// answered tells whether an answer comes; the connection itself must succeed. It waits long for an
// answer that should come.
func answered(t *testing.T, from *lab.Namespace, address, request string, should bool) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := from.DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send(t, conn, request)
	wait := 5 * time.Second
	if !should {
		wait = 300 * time.Millisecond
	}
	patience(t, conn, wait)
	wire, err := io.ReadAll(conn)
	switch {
	case err == nil && strings.HasPrefix(string(wire), "HTTP/1.1 200"):
		return true
	case len(wire) == 0 && errors.Is(err, os.ErrDeadlineExceeded):
		return false
	default:
		t.Fatalf("%s: %q, %v", address, wire, err)
		return false
	}
}
