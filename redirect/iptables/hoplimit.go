package iptables

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// survivingHops is what an answer must arrive with to reach a caller one hop away.
const survivingHops = 2

// WatchHopLimit keeps an answer from a socket that would not have survived one hop more: the kernel drops
// its segments (IP_MINTTL, IPV6_MINHOPCOUNT), and it never comes, as it would not have for its caller. What
// does come is told to have two hops: without BPF, how many there were is not to be known, so that a
// caller further away than one hop gets no token.
//
// The opening of the connection must arrive with two hops too; that of IMDS has 64 or more.
func (r *Redirector) WatchHopLimit(fd int) (func() (int, error), error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return nil, fmt.Errorf("read the family of a socket: %w", err)
	}
	level, option := unix.IPPROTO_IP, unix.IP_MINTTL
	if domain == unix.AF_INET6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT
	}
	if err := unix.SetsockoptInt(fd, level, option, survivingHops); err != nil {
		return nil, fmt.Errorf("watch hop limit: %w", err)
	}
	return func() (int, error) { return survivingHops, nil }, nil
}
