//go:build root

package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/simulator"
)

const (
	getID    = "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"
	getToken = "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n"
	mapped4  = "[::ffff:169.254.169.254]:80"
)

func addContainer(t testing.TB, p *place, name string) *lab.Namespace {
	t.Helper()
	n, err := p.AddContainer(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCallIsToldWhole(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p, recorded(t, p))
	container := addContainer(t, p, "one")
	for _, from := range []struct {
		name      string
		namespace *lab.Namespace
		cgroup    string
	}{{"host", p.Host(), p.Cgroup()}, {"container", container, filepath.Join(p.Cgroup(), "one")}} {
		for to, original := range map[string]string{imds4: imds4, imds6: imds6, mapped4: mapped4} {
			t.Run(from.name+" to "+to, func(t *testing.T) {
				before := time.Now()
				client := start(t, from.namespace, []call{{To: to, Send: []string{getID}, Reads: 1}}, as(12345, 23456))
				s := client.next(t)
				x := w.expect(t, "GET /latest/meta-data/instance-id 200")[0]
				if x.Start.Before(before) || x.End.Before(x.Start) || x.End.After(time.Now()) {
					t.Errorf("from %s to %s, called after %s", x.Start, x.End, before)
				}
				if x.Proto != "HTTP/1.1" || x.Host != "169.254.169.254" || x.Header.Get("User-Agent") != "curl/7.88.1" || x.Raw {
					t.Errorf("%+v", x)
				}
				if local := strings.Replace(s.Local, "::ffff:", "", 1); x.Client.String() != local {
					t.Errorf("client %s, is %s", x.Client, local)
				}
				if x.IMDS.String() != strings.NewReplacer("[::ffff:", "", "]:80", ":80").Replace(strings.Replace(to, imds6, "x", 1)) && to != imds6 {
					t.Errorf("called %s, by %s", x.IMDS, to)
				}
				c := x.Connection
				want := redirect.Connection{
					PID: client.pid(), TID: c.TID, PPID: uint32(os.Getpid()), UID: 12345, GID: 23456, Comm: c.Comm,
					Started: c.Started, ExecID: c.ExecID, CgroupID: inode(t, from.cgroup),
					NetNSCookie: c.NetNSCookie, NetNS: uint32(inode(t, from.namespace.Path())), OwnNetNS: from.name == "host",
					Socket: s.Socket, Original: c.Original, Connected: c.Connected,
				}
				if c != want || c.Original.String() != original || c.Comm == "" || c.TID == 0 || c.Started == 0 || c.Connected == 0 {
					t.Errorf("by %+v, want %+v to %s", c, want, original)
				}
				if !x.Known || !x.Recorded {
					t.Error("not recorded")
				}
			})
		}
	}
	w.expectCounters(t, map[Count]uint64{"requests": 6, "ring_full": 0, "unreadable": 0, "gaps": 0, "silent": 0, "exempt": 0})
	w.expectNothing(t)
}

func TestTokenFlowIsToldWithoutTheToken(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p, recorded(t, p))
	withToken := strings.Replace(getID, "Accept", "x-aws-ec2-metadata-token: "+secret+"\r\nAccept", 1)
	client := start(t, p.Host(), []call{
		{To: imds4, Send: []string{getToken}, Method: "PUT", Reads: 1},
		{To: imds4, Send: []string{withToken}, Reads: 1},
		{To: imds4, Send: []string{strings.Replace(getID, "GET", "HEAD", 1)}, Method: "HEAD", Reads: 1},
	})
	for range 3 {
		client.next(t)
	}
	told := w.expect(t, "PUT /latest/api/token 200", "GET /latest/meta-data/instance-id 401", "HEAD /latest/meta-data/instance-id 200")
	for i, want := range []imds.Kind{imds.TokenRequest, imds.V2, imds.V1} {
		x := told[i]
		path, err := imds.Canonical(x.Target)
		if kind := imds.Classify(x.Method, path, x.Header); kind != want || err != nil {
			t.Errorf("%s %s is %s, want %s, %v", x.Method, x.Target, kind, want, err)
		}
	}
	if all := fmt.Sprintf("%+v", told); strings.Contains(all, "secret") || strings.Count(all, Redacted) != 1 {
		t.Errorf("told %s", all)
	}
}

func TestRequestsAreToldHoweverTheyAreSent(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{KeepAlive: true})
	w := watch(t, p)
	filler := strings.Repeat("x", 15<<10)
	large := strings.Replace(getID, "Accept", "X-Filler: "+filler+"\r\nAccept", 1)
	huge := "PUT /latest/api/token HTTP/1.1\r\nHost: h\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 60000\r\n\r\n" +
		strings.Repeat(getID, 1000)[:60000]
	small := strings.Replace(getID, "Accept", "X-Filler: "+filler[:450]+"\r\nAccept", 1)
	for name, c := range map[string]struct {
		call
		want []string
	}{
		"byte by byte":      {call{Send: []string{getID}, Cut: 1, Reads: 1}, []string{"GET /latest/meta-data/instance-id 200"}},
		"15 KiB":            {call{Send: []string{large}, Reads: 1}, []string{"GET /latest/meta-data/instance-id 200"}},
		"15 KiB, cut":       {call{Send: []string{large}, Cut: 1001, Reads: 1}, []string{"GET /latest/meta-data/instance-id 200"}},
		"513 bytes":         {call{Send: []string{small[:513], small[513:]}, Reads: 1}, []string{"GET /latest/meta-data/instance-id 200"}},
		"kept alive":        {call{Send: []string{getID, getID + getID, small}, Reads: 4}, []string{"GET /latest/meta-data/instance-id 200", "GET /latest/meta-data/instance-id 200", "GET /latest/meta-data/instance-id 200", "GET /latest/meta-data/instance-id 200"}},
		"body in one write": {call{Send: []string{huge + getID}, Method: "PUT", Reads: 2}, []string{"PUT /latest/api/token 200", "GET /latest/meta-data/instance-id 200"}},
		"no HTTP":           {call{Send: []string{"\x16\x03\x01\r\n\r\n"}, Reads: 1}, []string{"malformed - 400"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.To = imds4
			start(t, p.Host(), []call{c.call}).next(t)
			w.expect(t, c.want...)
		})
	}
	w.expectCounters(t, map[Count]uint64{"ring_full": 0, "unreadable": 0, "gaps": 0, "unsynced": 0})
	w.expectNothing(t)
}

func TestShortLivedCallersAreNamed(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p, recorded(t, p))
	for range 20 {
		client := start(t, p.Host(), []call{{To: imds4, Send: []string{getID}}}) // does not wait for the answer
		if err := client.end(); err != nil {
			t.Fatal(err)
		}
		if x := w.next(t); x.Connection.PID != client.pid() || x.Target != "/latest/meta-data/instance-id" {
			t.Errorf("told %+v, want process %d", x, client.pid())
		}
	}
}

func TestConnectionsWithoutARequestAreCounted(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p)
	client := start(t, p.Host(), []call{{To: imds4}, {To: imds6}})
	client.next(t)
	client.next(t)
	w.expectCounters(t, map[Count]uint64{"silent": 2, "requests": 0, "ring_full": 0})
	w.expectNothing(t)
}

func TestOthersAreNotSeen(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p)
	serve := func(at string) {
		listener, err := p.IMDS().Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				c.Close()
			}
		}()
	}
	var calls []call
	for _, to := range []string{"172.31.0.1:80", "[fd6c:6162::1]:80", "169.254.169.254:8080", "[fd00:ec2::254]:8080"} {
		serve(to)
		calls = append(calls, call{To: to, Send: []string{getID}, Reads: 1})
	}
	// The bridge's own; the upper half of the mark is for its self-checks.
	calls = append(calls,
		call{To: imds4, Send: []string{getID}, Reads: 1, Mark: mark},
		call{To: imds6, Send: []string{getID}, Reads: 1, Mark: mark | 0x7abc0000})
	client := start(t, p.Host(), calls)
	for range calls {
		client.next(t)
	}
	// A mark means nothing elsewhere.
	start(t, addContainer(t, p, "one"), []call{{To: imds4, Send: []string{getID}, Reads: 1, Mark: mark}}).next(t)
	w.expect(t, "GET /latest/meta-data/instance-id 200")
	got, err := w.Counters()
	if err != nil || got["exempt"] < 10 {
		t.Errorf("%v, %v", got, err)
	}
	start(t, p.Host(), []call{{To: imds4, Send: []string{getID}, Reads: 1, Mark: mark + 1}}).next(t)
	w.expect(t, "GET /latest/meta-data/instance-id 200")
	w.expectNothing(t)
}

func TestOtherNamespacesAreNotWatchedWhenToldSo(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p, func(o *Options) { o.OwnNetNS = true })
	call := []call{{To: imds4, Send: []string{getID}, Reads: 1}}
	start(t, addContainer(t, p, "one"), call).next(t)
	host := start(t, p.Host(), call).next(t)
	if x := w.expect(t, "GET /latest/meta-data/instance-id 200")[0]; x.Connection.Socket != host.Socket {
		t.Errorf("%+v", x)
	}
	w.expectCounters(t, map[Count]uint64{"unnamed": 1})
	w.expectNothing(t)
}

func TestSocketFromBeforeIsNamedByItsOwner(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{KeepAlive: true})
	container := addContainer(t, p, "one")
	var clients []*process
	for _, n := range []*lab.Namespace{p.Host(), container} {
		client := start(t, n, []call{{To: imds4, Send: []string{getID, getID}, Wait: true, Reads: 2, Keep: true}}, as(12345, 23456))
		client.next(t)
		clients = append(clients, client)
	}
	w := watch(t, p, recorded(t, p), found(t, p))
	for i, client := range clients {
		client.tell(t)
		for _, x := range w.expect(t, "GET /latest/meta-data/instance-id 200", "GET /latest/meta-data/instance-id 200") {
			c := x.Connection
			if !x.Known || x.Recorded || c.PID != client.pid() || c.UID != 12345 || c.Started == 0 || c.OwnNetNS != (i == 0) {
				t.Errorf("known %t, recorded %t, by %+v, want process %d", x.Known, x.Recorded, c, client.pid())
			}
		}
	}
	w.expectCounters(t, map[Count]uint64{"unnamed": 0, "unsynced": 0})
}

func TestSocketOfNobodyKnowsWhomIsTold(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Behaviour{})
	w := watch(t, p, func(o *Options) { o.Mark = 0 })
	s := start(t, p.Host(), []call{{To: imds4, Send: []string{getID}, Reads: 1}}).next(t)
	x := w.expect(t, "GET /latest/meta-data/instance-id 200")[0]
	want := redirect.Connection{NetNS: uint32(inode(t, p.Host().Path())), OwnNetNS: true, Socket: s.Socket, Original: x.IMDS}
	if x.Known || x.Recorded || x.Connection != want {
		t.Errorf("%+v", x)
	}
	w.expectCounters(t, map[Count]uint64{"unnamed": 1})
}
