package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// TestCallerThatDoesNotReadIsEnded asks for more than sockets hold, and takes none of it.
func TestCallerThatDoesNotReadIsEnded(t *testing.T) {
	t.Parallel()
	answer := "HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\nConnection: close\r\n\r\n" + strings.Repeat("x", 32<<20)
	e := newEndpoint(t, func(*http.Request) string { return answer })
	limits := standardLimits
	limits.WriteTimeout = 200 * time.Millisecond
	b := setup{policy: watching, limits: limits, upstream: Upstream{IPv4: netip.MustParseAddrPort(e.addr)}}.start(t)
	c := dialTCP(t, b.addr)
	c.SetReadBuffer(4096)
	io.WriteString(c, get("/latest/user-data"))
	waitFor(t, "the call", func() bool { return e.requests.Load() == 1 })
	start := time.Now()
	waitFor(t, "the slot", func() bool { return b.proxy.slots.len() == 0 })
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("a caller that reads nothing held its slot for %s", took)
	}
	if n, err := io.Copy(io.Discard, c); err == nil && n >= int64(len(answer)) {
		t.Error("the caller got the whole answer: nothing had to end")
	}
}

// TestIdleConnectionEnds keeps a connection open after a call.
func TestIdleConnectionEnds(t *testing.T) {
	t.Parallel()
	limits := standardLimits
	limits.IdleTimeout = 100 * time.Millisecond
	b := setup{behaviour: simulator.Behaviour{KeepAlive: true}, limits: limits}.start(t)
	c := dialTCP(t, b.addr)
	reader := bufio.NewReader(c)
	callOn(t, c, reader)
	start := time.Now()
	if _, err := reader.ReadByte(); err != io.EOF || time.Since(start) > 2*time.Second {
		t.Errorf("an idle connection reads %v after %s", err, time.Since(start))
	}
}

// TestIdleConnectionMayOutlastARequest waits longer between requests than one may take to come.
func TestIdleConnectionMayOutlastARequest(t *testing.T) {
	t.Parallel()
	limits := standardLimits
	limits.ReadTimeout = 200 * time.Millisecond
	b := setup{behaviour: simulator.Behaviour{KeepAlive: true}, limits: limits}.start(t)
	c := dialTCP(t, b.addr)
	reader := bufio.NewReader(c)
	callOn(t, c, reader)
	time.Sleep(3 * limits.ReadTimeout)
	callOn(t, c, reader)
}

// TestHalfABodyEnds is an endpoint that stops in the midst of its answer.
func TestHalfABodyEnds(t *testing.T) {
	t.Parallel()
	b := setup{policy: watching, upstream: Upstream{IPv4: stalling(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")}}.start(t)
	start := time.Now()
	answer, err := trySend(b.addr, get("/latest/user-data"), bodyTimeout+5*time.Second)
	if took := time.Since(start); took > bodyTimeout+3*time.Second {
		t.Errorf("half a body held its caller for %s", took)
	}
	if err == nil {
		t.Errorf("%q ends as if it were whole", answer)
	}
	waitFor(t, "the slot", func() bool { return b.proxy.slots.len() == 0 })
}

// stalling is an endpoint that sends part of an answer, and no more until the test ends.
func stalling(t *testing.T, part string) netip.AddrPort {
	t.Helper()
	l := listen(t)
	end := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer c.Close()
				if _, err := readRequest(c); err == nil {
					io.WriteString(c, part)
				}
				<-end
			})
		}
	})
	t.Cleanup(func() { l.Close(); close(end); wait.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

func dialTCP(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.TCPConn)
}

// callOn makes one call on a connection that stays open.
func callOn(t *testing.T, c net.Conn, reader *bufio.Reader) {
	t.Helper()
	io.WriteString(c, get("/latest/meta-data/instance-id"))
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 || resp.Close {
		t.Fatalf("%s, closes: %v, %v", resp.Status, resp.Close, err)
	}
}
