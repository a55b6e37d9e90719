package watch

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// Exchange is one request that a socket sent to IMDS, and what became of it.
type Exchange struct {
	Start time.Time // the first byte of the request was sent
	End   time.Time // the answer began, or it was clear that none would be seen

	Method string
	Target string // raw, as on the request line
	Proto  string
	Host   string
	// Header has all names that were sent. Values are there for a few that hold no secret; the
	// others are [Redacted], tokens and what authorizes among them.
	Header http.Header
	// Malformed is set when what was sent is not a whole HTTP request. Of that nothing is told.
	Malformed bool

	// Status is the answer's. It is 0 when none was seen: the connection ended, the answer took too
	// long, or it came in the same segment as the one before it.
	Status int

	Client netip.AddrPort // as in the packets
	IMDS   netip.AddrPort
	Raw    bool // sent by a raw socket

	// Connection says who sent it. Socket, NetNS, OwnNetNS and Original are always there; the rest
	// is only if Known.
	Connection redirect.Connection
	Known      bool
	// Recorded is set when the kernel recorded who it is, at connect() or as a raw socket sent. Outcome
	// is what the hook at connect() decided then: enum outcome of bpf/contract.h.
	Recorded bool
	Outcome  uint32
}

// Redacted stands for the value of a header that may be secret.
const Redacted = "redacted"
