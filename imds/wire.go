package imds

import "net/netip"

// Addresses of the metadata service. It speaks HTTP over TCP on [Port] alone.
//
// Source: EC2 User Guide, "Access instance metadata for an EC2 instance".
var (
	IPv4 = netip.MustParseAddr("169.254.169.254")
	IPv6 = netip.MustParseAddr("fd00:ec2::254")
)

// Port is the only TCP port that the metadata service listens on.
const Port = 80

// Header names in the form that net/http gives them (textproto.CanonicalMIMEHeaderKey).
const (
	// HeaderToken carries a session token on a request. Its presence makes the request an IMDSv2 one.
	HeaderToken = "X-Aws-Ec2-Metadata-Token"
	// HeaderTokenTTL asks for a lifetime on a token request, and tells the seconds left on an answer.
	HeaderTokenTTL = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	// HeaderForwardedFor makes the service refuse token requests, and calls that carry a token.
	HeaderForwardedFor = "X-Forwarded-For"
)

// TagsPath is what the paths of the instance's tags begin with.
const TagsPath = "/latest/meta-data/tags/instance/"

// TokenPath is the only path that hands out session tokens; under a dated version it answers 403.
const TokenPath = "/latest/api/token"

// Bounds of a session token's lifetime, in seconds. Outside them the service answers 400.
const (
	MinTokenTTL = 1
	MaxTokenTTL = 21600
)

// MaxUserData is the most that an instance's user data may hold, in bytes, before base64.
const MaxUserData = 16 << 10
