package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// sysctl reads a setting below /proc/sys/net/ipv4, "" if it may not be read.
func sysctl(name string) string {
	text, _ := os.ReadFile("/proc/sys/net/ipv4/" + name)
	return strings.TrimSpace(string(text))
}

// checkRouting looks at what the kernel does with packets from containers, before any rule sees them.
func checkRouting(_ context.Context, h *host) (findings []Finding) {
	if !h.options.Containers {
		return []Finding{{Status: OK, Found: "containers are left alone: it does not matter"}}
	}
	if h.options.Listen.Addr().IsLoopback() {
		return []Finding{h.judgeLoopback(sysctl("conf/all/route_localnet"))}
	}
	for _, link := range h.links() {
		strict := max(sysctl("conf/all/rp_filter"), sysctl("conf/"+link.name+"/rp_filter"))
		findings = append(findings, judgeReversePath(link, strict, routesBack(link))...)
	}
	if len(h.links()) > 0 && sysctl("ip_forward") == "0" {
		findings = append(findings, Finding{
			Status: Limit, Found: "net.ipv4.ip_forward=0",
			Means:  "bridged containers do not reach the metadata service by themselves; through the bridge they do",
			Remedy: "redirect.containers: false, if they are not to",
		})
	}
	if len(findings) == 0 {
		findings = append(findings, Finding{Status: OK, Found: fmt.Sprintf("%s, and nothing in the way (rp_filter, ip_forward)", count(len(h.links()), "container interface"))})
	}
	return findings
}

// judgeLoopback is about a listener on loopback, as in a sidecar.
func (h *host) judgeLoopback(routeLocalnet string) Finding {
	f := Finding{Status: OK, Found: fmt.Sprintf("the listener %s is on loopback", h.options.Listen), Means: "other network namespaces are left alone"}
	if h.options.Redirector == IPTables && routeLocalnet != "1" && len(h.links()) > 0 {
		f.Status, f.Concerns = Limit, IPTables
		f.Means = "bridged containers are not redirected: net.ipv4.conf.*.route_localnet=0 keeps them from loopback"
		f.Remedy = "a link-local listener, like the default 169.254.20.254:8254"
	}
	return f
}

// routesBack tells whether answers to a link's containers leave by that link.
func routesBack(link containerLink) bool {
	subnet := link.subnet(true)
	if !subnet.IsValid() {
		return true // a pair without addresses: each container has a route of its own
	}
	back, err := netlink.RouteGet(someHost(subnet).AsSlice())
	if err != nil || len(back) == 0 {
		return false
	}
	l, err := netlink.LinkByIndex(back[0].LinkIndex)
	return err == nil && l.Attrs().Name == link.name
}

// someHost is an address of a subnet that is neither its own nor, as a rule, the gateway's.
func someHost(subnet netip.Prefix) netip.Addr { return subnet.Addr().Next().Next() }

func judgeReversePath(link containerLink, filter string, back bool) []Finding {
	if filter != "1" || back {
		return nil
	}
	return []Finding{{
		Status: Limit, Found: fmt.Sprintf("rp_filter=1 on %s, and the way back to %s does not lead there", link.name, link.subnet(true)),
		Means:  "the kernel drops calls that come in by it, before the listener sees them",
		Remedy: fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2, or redirect.containers: false", link.name),
	}}
}
