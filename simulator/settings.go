package simulator

import (
	"cmp"
	"fmt"
	"time"
)

// Values of [MetadataOptions].
const (
	TokensOptional = "optional"
	TokensRequired = "required"
	Enabled        = "enabled"
	Disabled       = "disabled"
)

// MaxHopLimit is the largest HttpPutResponseHopLimit that EC2 takes.
const MaxHopLimit = 64

// MetadataOptions are an instance's own settings for the service, under the names of EC2's API
// (ModifyInstanceMetadataOptions). The zero value of each stands for its default.
type MetadataOptions struct {
	// HTTPTokens is optional (default: IMDSv1 is answered) or required (IMDSv1 gets 401).
	HTTPTokens string `json:"HttpTokens"`
	// HTTPEndpoint is enabled (default) or disabled: 403 to everybody.
	HTTPEndpoint string `json:"HttpEndpoint"`
	// HTTPPutResponseHopLimit is the IP TTL of the answers to PUT, 1 (default) to 64.
	HTTPPutResponseHopLimit int `json:"HttpPutResponseHopLimit"`
	// InstanceMetadataTags is enabled or disabled (default): whether meta-data/tags is there.
	InstanceMetadataTags string `json:"InstanceMetadataTags"`
}

// complete fills in the defaults and tells what EC2 would not take.
func (o MetadataOptions) complete() (MetadataOptions, error) {
	o.HTTPTokens = cmp.Or(o.HTTPTokens, TokensOptional)
	o.HTTPEndpoint = cmp.Or(o.HTTPEndpoint, Enabled)
	o.HTTPPutResponseHopLimit = cmp.Or(o.HTTPPutResponseHopLimit, 1)
	o.InstanceMetadataTags = cmp.Or(o.InstanceMetadataTags, Disabled)
	switch {
	case o.HTTPTokens != TokensOptional && o.HTTPTokens != TokensRequired:
		return o, fmt.Errorf("HttpTokens %q: want optional or required", o.HTTPTokens)
	case o.HTTPEndpoint != Enabled && o.HTTPEndpoint != Disabled:
		return o, fmt.Errorf("HttpEndpoint %q: want enabled or disabled", o.HTTPEndpoint)
	case o.HTTPPutResponseHopLimit < 1 || o.HTTPPutResponseHopLimit > MaxHopLimit:
		return o, fmt.Errorf("HttpPutResponseHopLimit %d: want 1 to %d", o.HTTPPutResponseHopLimit, MaxHopLimit)
	case o.InstanceMetadataTags != Enabled && o.InstanceMetadataTags != Disabled:
		return o, fmt.Errorf("InstanceMetadataTags %q: want enabled or disabled", o.InstanceMetadataTags)
	}
	return o, nil
}

// Values of [Behaviour].Drop.
const (
	DropClose = "close" // the connection is closed without an answer
	DropHang  = "hang"  // the connection stays open without an answer
)

// Values of [Behaviour].Only.
const (
	OnlyToken = "token" // requests with PUT to the token path
	OnlyData  = "data"  // all others
)

// Behaviour is how the simulator departs from a healthy service of today. The zero value does not.
type Behaviour struct {
	// Delay passes before an answer, or before a drop by closing.
	Delay time.Duration
	// Drop is empty, close or hang.
	Drop string
	// Status, 400 to 599, is the answer to everything; 0 for none.
	Status int
	// Only restricts Delay, Drop and Status to token or data requests; empty for both.
	Only string
	// OlderBackend answers as hosts of earlier generations do: HTTP/1.0, a 301 for directories without
	// a slash, pages with errors.
	OlderBackend bool
	// KeepAlive leaves connections open where the client wishes it, which the service never does.
	// The older backend does not do it even so.
	KeepAlive bool
}

func (b Behaviour) check() error {
	switch {
	case b.Delay < 0:
		return fmt.Errorf("delay %s: want none or more", b.Delay)
	case b.Drop != "" && b.Drop != DropClose && b.Drop != DropHang:
		return fmt.Errorf("drop %q: want close or hang", b.Drop)
	case b.Status != 0 && (b.Status < 400 || b.Status > 599):
		return fmt.Errorf("status %d: want 400 to 599", b.Status)
	case b.Only != "" && b.Only != OnlyToken && b.Only != OnlyData:
		return fmt.Errorf("only %q: want token or data", b.Only)
	}
	return nil
}

// toward is the behaviour that a request of kind k meets.
func (b Behaviour) toward(k kind) Behaviour {
	if b.Only == OnlyToken && k != kindToken || b.Only == OnlyData && k == kindToken {
		b.Delay, b.Drop, b.Status = 0, "", 0
	}
	return b
}
