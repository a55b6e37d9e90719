package iptables

import (
	"net"
	"net/netip"
	"testing"
)

// Whom a listener on loopback serves is of its own network namespace, found or not.
func TestArrivalOnLoopbackIsKnown(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if !arrivedOnLoopback(accepted) {
			t.Errorf("%s is not on loopback", listen)
		}
		for _, c := range []interface{ Close() error }{client, accepted, l} {
			c.Close()
		}
	}
	if arrivedOnLoopback(fakeConn{}) {
		t.Error("a link-local address is on loopback")
	}
}

type fakeConn struct{ net.Conn }

func (fakeConn) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("169.254.20.254:8254"))
}
