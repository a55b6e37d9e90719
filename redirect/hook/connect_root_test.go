//go:build root

package hook

import (
	"cmp"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/imds-bridge/imds-bridge/lab"
	"github.com/imds-bridge/imds-bridge/redirect"
)

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

const mapped4 = "[::ffff:169.254.169.254]:80"

func addContainer(t *testing.T, b *bridge, name string) *lab.Namespace {
	t.Helper()
	n, err := b.AddContainer(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// expectCall makes a call that must come to the bridge, and compares what both ends see of it.
func expectCall(t *testing.T, b *bridge, in *lab.Namespace, c call) redirect.Connection {
	t.Helper()
	s, r := b.call(t, in, c)
	if r.Original != mustAddrPort(c.To) {
		t.Errorf("recorded as a call to %s", r.Original)
	}
	if s.Peer != c.To {
		t.Errorf("the client's peer is %s", s.Peer)
	}
	if r.Socket != s.Socket {
		t.Errorf("recorded socket %d, the client's is %d", r.Socket, s.Socket)
	}
	if r.NetNSCookie != cmp.Or(s.NetNSCookie, r.NetNSCookie) || r.NetNS != uint32(inode(t, in.Path())) {
		t.Errorf("recorded namespace %d, %d; the client's is %d, %d", r.NetNSCookie, r.NetNS, s.NetNSCookie, inode(t, in.Path()))
	}
	if own := in == b.Host(); r.OwnNetNS != own {
		t.Errorf("own namespace: %t", r.OwnNetNS)
	}
	if r.Ambiguous {
		t.Error("recorded as ambiguous")
	}
	return r
}

func TestConnectOfEveryKindIsRedirectedAndRecorded(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	host4, host6 := b.Host().Addr().String(), b.Host().Addr6().String()
	for name, c := range map[string]call{
		"IPv4":                                              {To: imds4},
		"IPv6":                                              {To: imds6},
		"IPv6 from a socket for IPv6 alone":                 {To: imds6, V6Only: true},
		"IPv4 from a dual-stack socket":                     {To: mapped4},
		"non-blocking, IPv4":                                {To: imds4, How: "non-blocking"},
		"non-blocking, IPv6":                                {To: imds6, How: "non-blocking"},
		"non-blocking, dual-stack":                          {To: mapped4, How: "non-blocking"},
		"bound to a source address, IPv4":                   {To: imds4, From: host4 + ":0"},
		"bound to a source address and port, IPv4":          {To: imds4, From: host4 + ":12345"},
		"bound to a source port, IPv4":                      {To: imds4, From: "0.0.0.0:12346"},
		"bound to a source address, IPv6":                   {To: imds6, From: "[" + host6 + "]:0"},
		"bound to a source address and port, IPv6":          {To: imds6, From: "[" + host6 + "]:12347"},
		"bound to a source address, dual-stack":             {To: mapped4, From: "[::ffff:" + host4 + "]:0"},
		"TCP Fast Open by sendto, IPv4":                     {To: imds4, How: "fast open by sendto"},
		"TCP Fast Open by sendto, IPv6":                     {To: imds6, How: "fast open by sendto"},
		"TCP Fast Open by TCP_FASTOPEN_CONNECT, IPv4":       {To: imds4, How: "fast open by connect"},
		"TCP Fast Open by TCP_FASTOPEN_CONNECT, IPv6":       {To: imds6, How: "fast open by connect"},
		"TCP Fast Open by sendto, dual-stack":               {To: mapped4, How: "fast open by sendto"},
		"io_uring, IPv4":                                    {To: imds4, How: "io_uring"},
		"io_uring, IPv6":                                    {To: imds6, How: "io_uring"},
		"io_uring on a worker thread of the kernel's, IPv4": {To: imds4, How: "io_uring worker"},
		"io_uring on a worker thread of the kernel's, IPv6": {To: imds6, How: "io_uring worker"},
	} {
		t.Run(name, func(t *testing.T) {
			r := expectCall(t, b, b.Host(), c)
			if r.PPID != uint32(os.Getpid()) || r.CgroupID != inode(t, b.Cgroup()) {
				t.Errorf("recorded parent %d, cgroup %d", r.PPID, r.CgroupID)
			}
		})
	}
}

func TestBridgedContainerIsRedirectedAndRecorded(t *testing.T) {
	t.Parallel()
	b := newBridge(t)
	const name = "docker-0123456789abcdef.scope"
	container := addContainer(t, b, name)
	for network, to := range map[string]string{"IPv4": imds4, "IPv6": imds6, "dual-stack": mapped4} {
		t.Run(network, func(t *testing.T) {
			r := expectCall(t, b, container, call{To: to})
			if want := inode(t, filepath.Join(b.Cgroup(), name)); r.CgroupID != want {
				t.Errorf("cgroup %d, want %d", r.CgroupID, want)
			}
		})
	}
}
