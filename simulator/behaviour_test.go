package simulator

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

func behave(t *testing.T, sim *Simulator, behaviour Behaviour) {
	t.Helper()
	if err := sim.SetBehaviour(behaviour); err != nil {
		t.Fatal(err)
	}
}

func TestDelayPassesBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	const delay = 700 * time.Millisecond
	sim, address := start(t, Options{Behaviour: Behaviour{Delay: delay, Only: OnlyToken}})
	begin := time.Now()
	token := fetchToken(t, address)
	if took := time.Since(begin); took < delay {
		t.Errorf("token after %s", took)
	}
	begin = time.Now()
	if r := call(t, address, "GET", idPath, tokenHeader(token)); r.body != idBody || time.Since(begin) >= delay {
		t.Errorf("data after %s: %+v", time.Since(begin), r)
	}
	behave(t, sim, Behaviour{})
	begin = time.Now()
	fetchToken(t, address)
	if took := time.Since(begin); took >= delay {
		t.Errorf("token after %s without delay", took)
	}
}

func TestCloseCutsADelayShort(t *testing.T) {
	t.Parallel()
	sim, address := start(t, Options{Behaviour: Behaviour{Delay: time.Hour}})
	conn := dial(t, address)
	send(t, conn, "GET / HTTP/1.1\r\n\r\n")
	for sim.Counts().Requests < 1 {
		time.Sleep(time.Millisecond)
	}
	sim.Close()
	if wire, _ := io.ReadAll(conn); len(wire) > 0 {
		t.Errorf("answer %q", wire)
	}
}

func TestDropByClosing(t *testing.T) {
	t.Parallel()
	_, address := start(t, Options{Behaviour: Behaviour{Drop: DropClose}})
	if wire := exchange(t, address, "GET / HTTP/1.1\r\n\r\n"); wire != "" {
		t.Errorf("answer %q", wire)
	}
}

func TestDropByHanging(t *testing.T) {
	t.Parallel()
	sim, address := start(t, Options{Behaviour: Behaviour{Drop: DropHang, Only: OnlyToken}})
	conn := dial(t, address)
	send(t, conn, "PUT /latest/api/token HTTP/1.1\r\n"+ttlHeader("60")+"\r\n\r\n")
	patience(t, conn, 100*time.Millisecond)
	if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes, %v; want nothing and an open connection", n, err)
	}
	if r := call(t, address, "GET", idPath); r.body != idBody {
		t.Errorf("data: %+v", r)
	}
	counts := sim.Counts()
	if counts.Dropped != 1 || counts.TokenRequests != 1 || counts.TokensIssued != 0 || counts.ByStatus[200] != 1 {
		t.Errorf("counts %+v", counts)
	}
}

func TestStatusForAll(t *testing.T) {
	t.Parallel()
	sim, address := start(t, Options{Behaviour: Behaviour{Status: 503, Only: OnlyData}})
	r := call(t, address, "GET", idPath)
	if r.status != 503 || !strings.Contains(r.body, "<title>503 - Service Unavailable</title>") {
		t.Errorf("%+v", r)
	}
	fetchToken(t, address)
	behave(t, sim, Behaviour{Status: 500})
	if r := call(t, address, "PUT", imds.TokenPath, ttlHeader("60")); r.status != 500 {
		t.Errorf("token request: status %d", r.status)
	}
}

func TestKeepAliveServesSeveralRequestsOnOneConnection(t *testing.T) {
	t.Parallel()
	sim, address := start(t, Options{Behaviour: Behaviour{KeepAlive: true}})
	conn := dial(t, address)
	reader := bufio.NewReader(conn)
	var token string
	for _, step := range []struct {
		method, request string
		status          int
	}{
		{"PUT", "PUT /latest/api/token HTTP/1.1\r\n" + ttlHeader("60") + "\r\nContent-Length: 2\r\n\r\nhi", 200},
		{"GET", "GET /latest/meta-data/instance-id HTTP/1.1\r\n\r\n", 200},
		{"GET", "GET /latest/meta-data/instance-id HTTP/1.1\r\nX-Aws-Ec2-Metadata-Token: TOKEN\r\n\r\n", 200},
		{"POST", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 405},
		{"HEAD", "HEAD /latest/nothing HTTP/1.1\r\n\r\n", 404},
		{"GET", "GET /latest/meta-data/instance-id HTTP/1.1\r\nConnection: close\r\n\r\n", 200},
	} {
		send(t, conn, strings.ReplaceAll(step.request, "TOKEN", token))
		r, err := http.ReadResponse(reader, &http.Request{Method: step.method})
		if err != nil {
			t.Fatalf("%s: %v", step.request, err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != step.status || r.Close != strings.Contains(step.request, "close") {
			t.Errorf("%s: status %d, close %t, %v", step.request, r.StatusCode, r.Close, err)
		}
		if step.method == "PUT" {
			token = string(body)
		}
	}
	if _, err := reader.ReadByte(); err != io.EOF {
		t.Errorf("after Connection: close: %v", err)
	}
	if counts := sim.Counts(); counts.Connections != 1 || counts.Requests != 6 {
		t.Errorf("counts %+v", counts)
	}
}

func TestKeepAliveAnswersPipelinedRequestsInOrder(t *testing.T) {
	t.Parallel()
	_, address := start(t, Options{Behaviour: Behaviour{KeepAlive: true}})
	wire := exchange(t, address, "GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\n"+
		"GET /latest/nothing HTTP/1.1\r\n\r\n"+
		"GET /latest/meta-data/mac HTTP/1.0\r\n\r\n")
	first, second, third := strings.Index(wire, "ami-0abcdef1234567890"), strings.Index(wire, "404 Not Found"), strings.Index(wire, "02:29:96:8f:6a:2d")
	if first < 0 || second < first || third < second || strings.Count(wire, "Connection: close") != 1 {
		t.Errorf("%q", wire)
	}
}

func TestSettingsHoldFromTheNextRequestOn(t *testing.T) {
	t.Parallel()
	sim, address := start(t, Options{})
	if r := call(t, address, "GET", idPath); r.status != 200 {
		t.Errorf("optional: status %d", r.status)
	}
	if err := sim.SetMetadataOptions(MetadataOptions{HTTPTokens: TokensRequired}); err != nil {
		t.Fatal(err)
	}
	if r := call(t, address, "GET", idPath); r.status != 401 {
		t.Errorf("required: status %d", r.status)
	}
	if got, want := sim.MetadataOptions(), (MetadataOptions{TokensRequired, Enabled, 1, Disabled}); got != want {
		t.Errorf("settings %+v, want %+v", got, want)
	}
	if err := sim.SetMetadataOptions(MetadataOptions{HTTPTokens: "x"}); err == nil || sim.MetadataOptions().HTTPTokens != TokensRequired {
		t.Errorf("a bad setting: %v, %+v", err, sim.MetadataOptions())
	}
	if err := sim.SetBehaviour(Behaviour{Status: 1}); err == nil || sim.Behaviour() != (Behaviour{}) {
		t.Errorf("a bad behaviour: %v, %+v", err, sim.Behaviour())
	}
}
