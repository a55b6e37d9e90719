package iptables

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Capabilities are what the guard needs, and all that it needs: CAP_NET_ADMIN changes rules; the programs
// iptables look up ipsets, and legacy tables, on a raw socket, which takes CAP_NET_RAW. Legacy tables besides
// have a lock file that is root's.
//
// [Install] with tables of nf_tables needs CAP_NET_ADMIN alone.
var Capabilities = []string{"CAP_NET_ADMIN", "CAP_NET_RAW"}

// Where calls for IMDS go.
var (
	imds4 = netip.MustParseAddrPort("169.254.169.254:80")
	imds6 = netip.MustParseAddrPort("[fd00:ec2::254]:80")
)

// Backends of iptables: where the kernel keeps the rules.
const (
	NFT    = "nft"
	Legacy = "legacy"
)

// Tools say how the programs iptables and ip6tables are used.
type Tools struct {
	// Backend is [NFT] or [Legacy]; "" takes the one in use, which is the one that has rules.
	Backend string
	// LockTimeout is how long another program may hold the lock of the tables; 0 means 5 s. It is used in
	// whole seconds.
	LockTimeout time.Duration
}

const defaultLockTimeout = 5 * time.Second

// Rules say what to redirect to where.
type Rules struct {
	Tools
	// Listen receives connections for 169.254.169.254.
	Listen netip.AddrPort
	// Listen6 receives connections for fd00:ec2::254. The zero value leaves them alone.
	Listen6 netip.AddrPort
	// Containers says that calls of other network namespaces are redirected too. A listener on loopback
	// cannot be reached from there, and leaves them alone in any case.
	Containers bool
	// Mark exempts sockets: those with its low 16 bits in their SO_MARK. 0 exempts none.
	Mark uint32
	// CheckMark is the whole SO_MARK of a socket that is redirected in spite of Mark; 0 is none.
	CheckMark uint32
	// User exempts the sockets of a user, for a bridge that may not mark its own. It rules out Containers.
	User *uint32
	// CheckPort is a source port from which User's connections are redirected in spite of that, so that the
	// bridge can prove the rules; 0 is none.
	CheckPort uint16
}

func (r Rules) check() error {
	switch {
	case !r.Listen.Addr().Is4():
		return fmt.Errorf("redirect.listen: %s is no IPv4 address with a port", r.Listen)
	case r.Listen6.IsValid() && !r.Listen6.Addr().Is6():
		return fmt.Errorf("redirect.listen6: %s is no IPv6 address with a port", r.Listen6)
	case r.User == nil && r.Mark&0xffff == 0:
		return errors.New("neither a mark nor a user is exempt: the bridge would call itself")
	case r.User != nil && r.containers(r.Listen):
		return errors.New("a user's sockets can be told from others in this network namespace alone: redirect.containers must be false, or the listener on loopback")
	}
	return nil
}

// containers tells whether calls of other network namespaces go to a listener.
func (r Rules) containers(listen netip.AddrPort) bool {
	return r.Containers && !listen.Addr().IsLoopback()
}

// family is IPv4 or IPv6, with what the rules say of it.
type family struct {
	name   string // of the program
	number uint8  // AF_INET or AF_INET6
	imds   netip.AddrPort
	listen netip.AddrPort
}
