package simulator

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A client socket with IP_MINTTL hears nothing of packets with a smaller TTL. Hearing an answer with
// the hop limit as the minimum, and not with one more, tells its TTL as it was received.
func TestAnswersToPUTCarryTheHopLimit(t *testing.T) {
	t.Parallel()
	const (
		put     = "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n"
		refused = "PUT /latest/api/token HTTP/1.1\r\n\r\n"
		get     = "GET /latest/meta-data/instance-id HTTP/1.1\r\n\r\n"
		post    = "POST /latest/api/token HTTP/1.1\r\n\r\n"
	)
	sim, address := start(t, Options{})
	for _, hops := range []int{1, 2, 5, MaxHopLimit - 1} {
		if err := sim.SetMetadataOptions(MetadataOptions{HTTPPutResponseHopLimit: hops}); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			name, request string
			minTTL        int
			heard         bool
		}{
			{"token", put, hops, true},
			{"token", put, hops + 1, false},
			{"refusal of a PUT", refused, hops + 1, false},
			{"data", get, hops + 1, true},
			{"refusal of another verb", post, hops + 1, true},
		} {
			if heard := hears(t, address, test.minTTL, test.request, test.heard); heard != test.heard {
				t.Errorf("hop limit %d, %s, nearest %d: heard %t", hops, test.name, test.minTTL, heard)
			}
		}
	}
}

func TestHopLimitIsLiftedForTheNextAnswerOnAConnection(t *testing.T) {
	t.Parallel()
	_, address := start(t, Options{Behaviour: Behaviour{KeepAlive: true}})
	conn := dialNearest(t, address, 1)
	reader := bufio.NewReader(conn)
	for i, request := range []string{"PUT / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"} {
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := setMinTTL(raw, 1+i); err != nil {
			t.Fatal(err)
		}
		send(t, conn, request)
		r, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatalf("%q: %v", request, err)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Fatalf("%q: %v", request, err)
		}
	}
}

// hears tells whether the answer to a request arrives with at least the given TTL. It waits long for
// an answer that should come.
func hears(t *testing.T, address string, minTTL int, request string, should bool) bool {
	t.Helper()
	conn := dialNearest(t, address, minTTL)
	defer conn.Close()
	send(t, conn, request)
	if !should {
		patience(t, conn, 200*time.Millisecond)
	}
	wire, err := io.ReadAll(conn)
	switch {
	case err == nil && strings.HasPrefix(string(wire), "HTTP/1.1 "):
		return true
	case len(wire) == 0 && errors.Is(err, os.ErrDeadlineExceeded):
		return false
	default:
		t.Fatalf("neither an answer nor silence: %q, %v", wire, err)
		return false
	}
}

func dialNearest(t *testing.T, address string, minTTL int) net.Conn {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error { return setMinTTL(raw, minTTL) }}
	conn, err := dialer.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	patience(t, conn, 10*time.Second)
	return conn
}

func setMinTTL(raw syscall.RawConn, minTTL int) error {
	var failure error
	err := raw.Control(func(fd uintptr) {
		failure = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MINTTL, minTTL)
	})
	return errors.Join(err, failure)
}
