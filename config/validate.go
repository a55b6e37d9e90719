package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

// Addresses of AWS's link-local services, which a listener of ours would take away from the host.
var awsIPv4 = []netip.Addr{
	imds.IPv4,
	netip.MustParseAddr("169.254.169.253"), // DNS
	netip.MustParseAddr("169.254.169.123"), // time
	netip.MustParseAddr("169.254.170.2"),   // ECS task credentials
	netip.MustParseAddr("169.254.170.23"),  // EKS Pod Identity
}

var (
	awsIPv6     = netip.MustParsePrefix("fd00:ec2::/32") // the same services
	privateIPv6 = netip.MustParsePrefix("fd00::/8")      // locally assigned unique local addresses
)

// maxEntries bounds what is kept per connection or caller, here and in the kernel's maps, which
// take their memory at the start.
const maxEntries = 1 << 20

// Validate returns all problems at once, each naming the key, its value and what is allowed.
func (c Config) Validate() error {
	v := validator{settings: index(&c), from: c.from}
	for _, path := range []string{"redirector", "fail", "mode", "containers.v1", "containers.tokens", "attribution.kubernetes", "attribution.ecs", "log.level"} {
		allowed := v.settings[path].allowed
		v.check(path, slices.Contains(allowed, v.settings[path].String()), "must be "+anyOf(allowed))
	}

	v.check("redirect.cgroup", c.Redirect.Cgroup == "" || filepath.IsAbs(c.Redirect.Cgroup), `must be an absolute path, or "" to find it`)
	v.check("redirect.listen", isListen4(c.Redirect.Listen),
		"must be a port on a loopback (127.0.0.0/8) or link-local (169.254.0.0/16) address that is not AWS's own, like 169.254.20.254:8254")
	v.check("redirect.listen6", c.Redirect.Listen6 == netip.AddrPort{} || isListen6(c.Redirect.Listen6),
		`must be a port on ::1 or on an address in fd00::/8 that is not AWS's own, like [fd69:6d64:7362::254]:8254, or "" for none`)
	v.check("redirect.mark", 0 < c.Redirect.Mark && c.Redirect.Mark <= 0xffff, "must be from 0x1 to 0xffff: 0 is the mark of all other sockets, and the bits above tell bridges apart")
	v.within("redirect.heartbeat", c.Redirect.Heartbeat, 100*time.Millisecond, time.Minute)
	v.between("redirect.connections", c.Redirect.Connections, 1, maxEntries)

	v.check("upstream.ipv4", isPort(c.Upstream.IPv4) && c.Upstream.IPv4.Addr().Is4(), "must be an IPv4 address and a port, like 169.254.169.254:80")
	v.check("upstream.ipv4", c.Upstream.IPv4 != c.Redirect.Listen, "must not be redirect.listen: calls would go round in a circle")
	v.check("upstream.ipv6", isPort(c.Upstream.IPv6) && isIPv6(c.Upstream.IPv6.Addr()), "must be an IPv6 address and a port, like [fd00:ec2::254]:80")
	v.check("upstream.ipv6", c.Upstream.IPv6 != c.Redirect.Listen6, "must not be redirect.listen6: calls would go round in a circle")
	v.within("upstream.timeout", c.Upstream.Timeout, time.Millisecond, time.Hour)

	v.between("limits.connections", c.Limits.Connections, 1, maxEntries)
	v.between("limits.connections_per_caller", c.Limits.ConnectionsPerCaller, 1, maxEntries)
	v.between("limits.header_bytes", c.Limits.HeaderBytes, 1024, 1<<20)
	v.between("limits.body_bytes", c.Limits.BodyBytes, 1, 1<<24)
	v.between("limits.callers", c.Limits.Callers, 1, maxEntries)
	v.within("limits.read_timeout", c.Limits.ReadTimeout, time.Millisecond, time.Hour)
	v.within("limits.write_timeout", c.Limits.WriteTimeout, time.Millisecond, time.Hour)
	v.within("limits.idle_timeout", c.Limits.IdleTimeout, time.Millisecond, time.Hour)

	v.check("attribution.docker", isSockets(c.Attribution.Docker), `must be absolute paths apart by spaces, auto, or "" for none`)
	v.check("attribution.cri", isSockets(c.Attribution.CRI), `must be absolute paths apart by spaces, auto, or "" for none`)
	v.check("attribution.kubernetes", c.Attribution.Kubernetes != "on" || c.Attribution.Node != "", "needs attribution.node")
	v.check("attribution.owner_file", c.Attribution.OwnerFile == "" || filepath.IsAbs(c.Attribution.OwnerFile), `must be an absolute path, or "" for none`)

	v.check("admin.listen", c.Admin.Listen == "" || c.Admin.Listen != c.Redirect.Listen.String() && c.Admin.Listen != c.Redirect.Listen6.String(),
		"must not be redirect.listen")
	v.check("admin.listen", isAdmin(c.Admin.Listen),
		`must be a port on loopback, like 127.0.0.1:8255, or unix: and an absolute path, or "" for off; the network never reaches it`)
	return errors.Join(v.problems...)
}

type validator struct {
	settings map[string]setting
	from     map[string]string
	problems []error
}

func (v *validator) check(path string, ok bool, want string) {
	if ok {
		return
	}
	err := fmt.Errorf("%s %q %s", path, v.settings[path], want)
	if source := v.from[path]; source != "" {
		err = fmt.Errorf("%s: %w", source, err)
	}
	v.problems = append(v.problems, err)
}

func (v *validator) between(path string, n, least, most int) {
	v.check(path, least <= n && n <= most, fmt.Sprintf("must be from %d to %d", least, most))
}

func (v *validator) within(path string, d, least, most time.Duration) {
	v.check(path, least <= d && d <= most, fmt.Sprintf("must be from %s to %s", shortDuration(least), shortDuration(most)))
}

func isSockets(text string) bool {
	if text == "auto" {
		return true
	}
	for path := range strings.FieldsSeq(text) {
		if !filepath.IsAbs(path) {
			return false
		}
	}
	return true
}

func isPort(a netip.AddrPort) bool {
	return a.Port() != 0 && a.Addr().IsValid() && !a.Addr().IsUnspecified()
}

func isIPv6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.Zone() == "" }

func isListen4(a netip.AddrPort) bool {
	ip := a.Addr()
	return isPort(a) && ip.Is4() && (ip.IsLoopback() || ip.IsLinkLocalUnicast()) && !slices.Contains(awsIPv4, ip)
}

func isListen6(a netip.AddrPort) bool {
	ip := a.Addr()
	return isPort(a) && isIPv6(ip) && (ip.IsLoopback() || privateIPv6.Contains(ip) && !awsIPv6.Contains(ip))
}

func isAdmin(listen string) bool {
	if listen == "" {
		return true
	}
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		return filepath.IsAbs(path)
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	ip, ipErr := netip.ParseAddr(host)
	return err == nil && n != 0 && (host == "localhost" || ipErr == nil && ip.IsLoopback())
}
