package simulator

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

// start serves a simulator on loopback until the test ends.
func start(t testing.TB, options Options) (*Simulator, string) {
	t.Helper()
	sim, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	return sim, serve(t, sim)
}

func serve(t testing.TB, sim *Simulator) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- sim.Serve(listener) }()
	t.Cleanup(func() {
		sim.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return listener.Addr().String()
}

func dial(t testing.TB, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	patience(t, conn, 10*time.Second)
	return conn
}

// patience is how long reads and writes may take from now on.
func patience(t testing.TB, conn net.Conn, d time.Duration) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(d)); err != nil {
		t.Fatal(err)
	}
}

func send(t testing.TB, conn net.Conn, raw string) {
	t.Helper()
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
}

// exchange sends raw bytes on a connection of its own and returns all that comes back until the service
// closes it. It fails if the service does not.
func exchange(t testing.TB, address, raw string) string {
	t.Helper()
	conn := dial(t, address)
	send(t, conn, raw)
	wire, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("after %q: %v", wire, err)
	}
	return string(wire)
}

type response struct {
	status int
	header http.Header // without Connection
	close  bool        // Connection: close
	body   string
}

// call sends one request with headers given as "Name: value".
func call(t testing.TB, address, method, target string, headers ...string) response {
	t.Helper()
	var request strings.Builder
	fmt.Fprintf(&request, "%s %s HTTP/1.1\r\nHost: 169.254.169.254\r\n", method, target)
	for _, header := range headers {
		request.WriteString(header + "\r\n")
	}
	return parseResponse(t, method, exchange(t, address, request.String()+"\r\n"))
}

func parseResponse(t testing.TB, method, wire string) response {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(wire)), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%v in %q", err, wire)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("%v in %q", err, wire)
	}
	return response{r.StatusCode, r.Header, r.Close, string(body)}
}

func ttlHeader(value string) string   { return imds.HeaderTokenTTL + ": " + value }
func tokenHeader(value string) string { return imds.HeaderToken + ": " + value }

func fetchToken(t testing.TB, address string) string {
	t.Helper()
	r := call(t, address, "PUT", imds.TokenPath, ttlHeader("21600"))
	if r.status != http.StatusOK {
		t.Fatalf("token request: status %d", r.status)
	}
	return r.body
}

func TestCloseEndsEverythingAndMayBeCalledAgain(t *testing.T) {
	t.Parallel()
	sim, address := start(t, Options{Behaviour: Behaviour{Drop: DropHang}})
	second := serve(t, sim)
	hung := dial(t, address)
	send(t, hung, "GET / HTTP/1.1\r\n\r\n")
	idle := dial(t, second)
	for sim.Counts().Requests < 1 {
		time.Sleep(time.Millisecond)
	}
	sim.Close()
	sim.mu.Lock()
	if len(sim.open) > 0 {
		t.Errorf("%d are open after Close", len(sim.open))
	}
	sim.mu.Unlock()
	sim.Close()
	for _, conn := range []net.Conn{hung, idle} {
		if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("connection is open after Close: %d, %v", n, err)
		}
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("listener takes connections after Close")
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Serve(listener); err != nil {
		t.Errorf("Serve after Close: %v", err)
	}
	if _, err := listener.Accept(); err == nil {
		t.Error("Serve after Close leaves the listener open")
	}
}

func TestServeReturnsTheListenersError(t *testing.T) {
	t.Parallel()
	sim, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if err := sim.Serve(listener); err == nil {
		t.Error("want the error of a closed listener")
	}
	sim.Close()
}

func TestNewRefusesWhatEC2WouldNotTake(t *testing.T) {
	t.Parallel()
	for _, options := range []Options{
		{Metadata: MetadataOptions{HTTPTokens: "always"}},
		{Metadata: MetadataOptions{HTTPEndpoint: "on"}},
		{Metadata: MetadataOptions{HTTPPutResponseHopLimit: 65}},
		{Metadata: MetadataOptions{HTTPPutResponseHopLimit: -1}},
		{Metadata: MetadataOptions{InstanceMetadataTags: "yes"}},
		{Behaviour: Behaviour{Delay: -1}},
		{Behaviour: Behaviour{Drop: "reset"}},
		{Behaviour: Behaviour{Status: 200}},
		{Behaviour: Behaviour{Only: "put"}},
	} {
		if _, err := New(options); err == nil {
			t.Errorf("%+v: want an error", options)
		}
	}
}
