package main

import (
	"bytes"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// imdsAddr is called in the namespaces of a lab and nowhere else.
var imdsAddr = netip.MustParseAddrPort("169.254.169.254:80")

// What goes over the wire is the same for all: one token that never changes, one document.
const (
	token       = "AQAEAJ0bench0bench0bench0bench0bench0bench0bench0bench0w=="
	tokenHeader = "X-aws-ec2-metadata-token"
	document    = "bench-role-with-a-name-of-the-usual-length"
	path        = "/latest/meta-data/iam/security-credentials/"
	headEnd     = "\r\n\r\n"
)

// v1 is the request of a client that knows nothing of tokens, v2 that of one that has one.
var (
	v1 = []byte("GET " + path + " HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: bench/1.0\r\nAccept: */*" + headEnd)
	v2 = []byte("GET " + path + " HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n" +
		tokenHeader + ": " + token + headEnd)
)

// answer is one of IMDS, as to names, number and size of its headers.
func answer(status, body string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 %s\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\nContent-Type: text/plain\r\n"+
		"Accept-Ranges: none\r\nLast-Modified: Sat, 01 Nov 2025 10:00:00 GMT\r\nContent-Length: %d\r\n"+
		"Date: Sat, 01 Nov 2025 12:00:00 GMT\r\nServer: EC2ws\r\nConnection: close\r\n\r\n%s", status, len(body), body)
}

var (
	success = answer("200 OK", document)
	granted = answer("200 OK", token)
	refused = answer("401 Unauthorized", "")
)

// complete tells whether b is the whole answer to a call that was made with a token.
func complete(b []byte) bool {
	return bytes.HasPrefix(b, []byte("HTTP/1.1 200")) && bytes.HasSuffix(b, []byte(headEnd+document))
}

func socketAddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// dial returns a connected blocking socket. Go's own would add its poller to every figure.
func dial(to *unix.SockaddrInet4) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	if err := unix.Connect(fd, to); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}
