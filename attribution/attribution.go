// Package attribution says of each call what is known beside its caller: what it runs in, whose it is,
// which client called and what its owner should do.
//
// Nothing here waits. What is not known yet is looked for in the background, and later calls of the
// same process have it.
package attribution

import (
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/caller/software"
	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/imds/client"
)

// Call is what is asked of one call.
type Call struct {
	Caller       *caller.Caller // nil where nobody knows
	OtherNetwork bool           // it came from another network namespace than the bridge's
	Kind         imds.Kind
	Path, Route  string // canonical, and its pattern
	UserAgent    string
	Status       int // of the answer; 0 when there was none
	// Answered: the caller got an answer. It is false for a token that the hop limit withheld.
	Answered   bool
	Start, End time.Time
}

// Who is what is known of a process besides its [caller.Caller]. It is shared: read it only. As soon as
// more is known, it is another one.
type Who struct {
	Container *container.Container // nil where none is known
	Software  *software.Software   // nil as long as it is not known
	Owner     owner.Owner
	Service   string // the name by which the caller's service goes
}

// Attribution is what is known of one call. What it points to is shared, by all calls that are told of in
// the same words: read it only.
type Attribution struct {
	*Who
	Client *client.Client
	// Advice is for v1 calls, else nil.
	Advice *client.Advice
	// Waste is what the process's calls of about the last hour could be fewer by.
	Waste []client.Finding
}

// nobody is who calls when no process is known.
var nobody = &Who{}

// Unknown is what is known of a call where nobody is asked.
var Unknown = &Attribution{Who: nobody, Client: &client.Client{}}
