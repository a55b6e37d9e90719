package imds

import (
	"net/http"
	"net/netip"
	"strings"
)

// Kind says what a request is to the metadata service.
type Kind uint8

const (
	// V1 is a GET or HEAD without a session token.
	V1 Kind = iota + 1
	// V2 is a GET or HEAD with a session token, a valid one or not.
	V2
	// TokenRequest is a PUT: only the service knows under which spellings of a path it hands out tokens.
	TokenRequest
	// NotAWS is a request for another cloud's metadata service at the same address.
	NotAWS
	// Other is a request with a verb that no metadata client uses.
	Other
)

// String gives one of a closed set, fit for metric labels. The zero value is "unknown".
func (k Kind) String() string {
	return [...]string{"unknown", "v1", "v2", "token", "not_aws", "other"}[k]
}

// Classify tells what a request is. Path is its canonical path.
//
// The presence of the token header makes the version, per request: EC2 User Guide, "How Instance
// Metadata Service Version 2 works".
func Classify(method, path string, h http.Header) Kind {
	switch {
	case isOtherCloud(path, h):
		return NotAWS
	case method == http.MethodPut:
		return TokenRequest
	case method != http.MethodGet && method != http.MethodHead:
		return Other
	case len(h[HeaderToken]) > 0:
		return V2
	default:
		return V1
	}
}

// otherCloudPaths are the first segments of the paths of services that share the address.
var otherCloudPaths = map[string]string{
	"computeMetadata":   "google",
	"metadata":          "azure", // and IBM's /metadata/v1, DigitalOcean's /metadata/v1
	"opc":               "oracle",
	"instance_identity": "ibm",
	"openstack":         "openstack",
	"hetzner":           "hetzner",
}

// isOtherCloud tells a request for another cloud's service. A path of the EC2 service is never
// one, whatever its headers say: a header must not be a way around the policy for IMDSv1.
func isOtherCloud(path string, h http.Header) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if isVersion(first) {
		return false
	}
	return otherCloudPaths[first] != "" || hasOtherCloudHeader(h)
}

func hasOtherCloudHeader(h http.Header) bool {
	return len(h["Metadata-Flavor"]) > 0 || // Google, IBM
		strings.EqualFold(h.Get("Metadata"), "true") || // Azure
		strings.HasPrefix(h.Get("Authorization"), "Bearer Oracle") // Oracle
}

// isVersion tells whether a path's first segment names a version of the EC2 service.
func isVersion(s string) bool {
	if s == "latest" || s == "1.0" {
		return true
	}
	if len(s) != len("2021-03-23") {
		return false
	}
	for i, c := range []byte(s) {
		dash := i == 4 || i == 7
		if dash != (c == '-') || !dash && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// relayHeaders are what proxies add and what browsers send. Nothing that calls the service on
// its own behalf has a reason to send one. Names that begin with one of relayPrefixes are too.
var (
	relayHeaders = setOf(
		"Forwarded", "Via", "X-Original-Forwarded-For", "X-Original-Url", "X-Rewrite-Url", "X-Real-Ip",
		"Client-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "True-Client-Ip", "Fastly-Client-Ip",
		"X-Originating-Ip", "X-Remote-Ip", "X-Remote-Addr", "X-Amzn-Trace-Id", "X-Varnish", "Cdn-Loop",
		"Max-Forwards", "Proxy-Connection", "Proxy-Authorization",
		"Origin", "Referer", "Cookie", "Upgrade-Insecure-Requests", "Purpose", "Service-Worker", "Dnt",
	)
	relayPrefixes = []string{"X-Forwarded", "X-Envoy-", "X-Amz-Cf-", "Cf-", "Sec-"}
)

func setOf(names ...string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

func isRelayHeader(name string) bool {
	if relayHeaders[name] {
		return true
	}
	for _, prefix := range relayPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// RelaySign returns the header that makes a request look relayed by a proxy or sent by a
// browser, and "" where there is none: signs of server-side request forgery, or of DNS rebinding
// when it is "Host".
func RelaySign(host string, h http.Header) string {
	if !IsHost(host) {
		return "Host"
	}
	sign := ""
	for name := range h {
		if isRelayHeader(name) && (sign == "" || name < sign) {
			sign = name // of several always the same one
		}
	}
	return sign
}

// hostNames resolve to the service inside a VPC.
var hostNames = map[string]bool{"instance-data": true, "instance-data.ec2.internal": true}

// IsHost tells whether a Host header names the metadata service. An absent one does: HTTP/1.0
// does not ask for it.
func IsHost(host string) bool {
	if host == "" {
		return true
	}
	name := strings.TrimSuffix(host, ":80")
	if addr, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		addr = addr.Unmap()
		return addr == IPv4 || addr == IPv6
	}
	return hostNames[strings.ToLower(strings.TrimSuffix(name, "."))]
}
