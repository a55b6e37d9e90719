package caller

import "net/netip"

// Peer is who made a connection to IMDS, as a redirector tells it.
type Peer struct {
	Origin    Origin
	OwnNetNS  bool           // the caller is in the bridge's own network namespace
	Ambiguous bool           // another namespace holds the same addresses and ports
	Original  netip.AddrPort // what the caller asked for
}
