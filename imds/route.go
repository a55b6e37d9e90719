package imds

import "strings"

// Route is the pattern that a canonical path falls under. There is a closed set of them, which
// holds no name, address or key of an instance: fit for span names and metric labels.
type Route struct {
	// Pattern has the form /latest/meta-data/iam/security-credentials/{role}. A dated version
	// shows as /{version}. Paths that we do not know show as /latest/meta-data/{unknown}.
	Pattern string
	// Sensitive marks role credentials, identity credentials and user data.
	Sensitive bool
}

// Unknown is the route of a path outside the metadata tree.
var Unknown = Route{Pattern: "/{unknown}"}

// RouteOf finds the route of a canonical path.
func RouteOf(path string) Route {
	if path == "/" {
		return Route{Pattern: "/"}
	}
	version, rest, _ := strings.Cut(path[1:], "/")
	if !isVersion(version) {
		return Unknown
	}
	routes := latestRoutes
	if version != "latest" {
		routes = datedRoutes
	}
	return routes.find(rest)
}

// patterns are the paths below a version. A {name} stands for one segment, {rest} for all that
// follow; a literal is tried before a name. A leading "!" marks what is sensitive.
//
// Source: EC2 User Guide, "Instance metadata categories" and "Dynamic data categories".
var patterns = strings.Fields(`
api/token
dynamic
dynamic/fws/instance-monitoring
dynamic/instance-identity
dynamic/instance-identity/document
dynamic/instance-identity/pkcs7
dynamic/instance-identity/rsa2048
dynamic/instance-identity/signature
meta-data
meta-data/ami-id
meta-data/ami-launch-index
meta-data/ami-manifest-path
meta-data/ancestor-ami-ids
meta-data/autoscaling
meta-data/autoscaling/target-lifecycle-state
meta-data/block-device-mapping
meta-data/block-device-mapping/{device}
meta-data/elastic-inference/associations
meta-data/elastic-inference/associations/{id}
meta-data/events/maintenance/history
meta-data/events/maintenance/scheduled
meta-data/events/recommendations/rebalance
meta-data/hibernation/configured
meta-data/hostname
meta-data/iam
meta-data/iam/info
meta-data/iam/security-credentials
!meta-data/iam/security-credentials/{role}
meta-data/identity-credentials
meta-data/identity-credentials/ec2
meta-data/identity-credentials/ec2/info
meta-data/identity-credentials/ec2/security-credentials
!meta-data/identity-credentials/ec2/security-credentials/{identity}
meta-data/instance-action
meta-data/instance-id
meta-data/instance-life-cycle
meta-data/instance-type
meta-data/ipv6
meta-data/kernel-id
meta-data/local-hostname
meta-data/local-ipv4
meta-data/mac
meta-data/metrics/vhostmd
meta-data/network
meta-data/network/interfaces
meta-data/network/interfaces/macs
meta-data/network/interfaces/macs/{mac}
meta-data/network/interfaces/macs/{mac}/{rest}
meta-data/placement
meta-data/placement/availability-zone
meta-data/placement/availability-zone-id
meta-data/placement/group-name
meta-data/placement/host-id
meta-data/placement/partition-number
meta-data/placement/region
meta-data/product-codes
meta-data/profile
meta-data/public-hostname
meta-data/public-ipv4
meta-data/public-keys
meta-data/public-keys/{key}
meta-data/public-keys/{key}/openssh-key
meta-data/ramdisk-id
meta-data/reservation-id
meta-data/security-groups
meta-data/services
meta-data/services/domain
meta-data/services/partition
meta-data/spot
meta-data/spot/instance-action
meta-data/spot/termination-time
meta-data/system
meta-data/tags
meta-data/tags/instance
meta-data/tags/instance/{key}
!user-data
`)

var (
	latestRoutes = newTree("/latest")
	datedRoutes  = newTree("/{version}")
)

// tree is the routes below one segment.
type tree struct {
	route    Route // of the path that ends here
	unknown  Route // of a path that leaves the tree here
	children map[string]*tree
	param    *tree // any one segment
	rest     *tree // any segments
}

func newTree(version string) *tree {
	root := &tree{route: Route{Pattern: version}, unknown: Route{Pattern: version + "/{unknown}"}}
	for _, p := range patterns {
		path, sensitive := strings.CutPrefix(p, "!")
		at := root
		for segment := range strings.SplitSeq(path, "/") {
			at = at.grow(segment)
		}
		at.route.Sensitive = sensitive
		at.unknown.Sensitive = sensitive // what lies below something sensitive is sensitive too
	}
	return root
}

func (t *tree) grow(segment string) *tree {
	pattern := t.route.Pattern + "/" + segment
	child := &tree{route: Route{Pattern: pattern}, unknown: Route{Pattern: pattern + "/{unknown}"}}
	switch {
	case segment == "{rest}":
		t.rest = child
	case strings.HasPrefix(segment, "{"):
		if t.param == nil {
			t.param = child
		}
		return t.param
	default:
		if t.children == nil {
			t.children = map[string]*tree{}
		}
		if t.children[segment] == nil {
			t.children[segment] = child
		}
		return t.children[segment]
	}
	return child
}

func (t *tree) find(path string) Route {
	for path != "" {
		var segment string
		segment, path, _ = strings.Cut(path, "/")
		switch {
		case t.children[segment] != nil:
			t = t.children[segment]
		case t.param != nil:
			t = t.param
		case t.rest != nil:
			return t.rest.route
		default:
			return t.unknown
		}
	}
	return t.route
}
