package doctor

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/imds-bridge/imds-bridge/imds"
)

// firewall are the rules of all backends.
type firewall struct {
	sets   []*ruleset
	unseen []string // why some could not be read
}

// reader lists the rules of one family and backend of iptables. It reads its own backend alone, and
// makes no table.
type reader struct {
	program string
	legacy  bool
	v6      bool
}

// readers are those that are installed. Before iptables 1.8 there was one backend, legacy, and its
// program has the plain name.
func readers() (list []reader) {
	for _, family := range []string{"iptables", "ip6tables"} {
		v6 := family == "ip6tables"
		nft, legacy := reader{family + "-nft-save", false, v6}, reader{family + "-legacy-save", true, v6}
		switch {
		case has(nft.program) || has(legacy.program):
			list = append(list, nft, legacy)
		case has(family + "-save"):
			list = append(list, reader{family + "-save", true, v6})
		}
	}
	return slices.DeleteFunc(list, func(r reader) bool { return !has(r.program) })
}

func has(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// readFirewall lists rules with the programs that are there. Nothing is changed; the kernel may load the
// module that is asked.
func readFirewall(ctx context.Context, allowed bool) (f firewall) {
	if !allowed {
		return firewall{unseen: []string{"rules may be listed with CAP_NET_ADMIN alone"}}
	}
	list := readers()
	texts, errs := make([]string, len(list)+1), make([]error, len(list)+1)
	var reading sync.WaitGroup
	for i, r := range list {
		reading.Go(func() { texts[i], errs[i] = run(ctx, r.program) })
	}
	if has("nft") {
		reading.Go(func() { texts[len(list)], errs[len(list)] = run(ctx, "nft", "-j", "list", "ruleset") })
	} else if len(list) == 0 {
		f.unseen = append(f.unseen, "neither nft nor iptables is installed")
	}
	reading.Wait()
	for i, r := range list {
		f.sets = append(f.sets, parseSave(texts[i], strings.TrimSuffix(r.program, "-save"), r.v6)...)
		if errs[i] != nil {
			f.unseen = append(f.unseen, fmt.Sprintf("%s: %s", r.program, errs[i]))
		}
	}
	if err := cmp.Or(errs[len(list)], f.addNft(texts[len(list)])); err != nil {
		f.unseen = append(f.unseen, fmt.Sprintf("nft: %s", err))
	}
	return f
}

func (f *firewall) addNft(text string) error {
	if text == "" {
		return nil
	}
	sets, err := parseNft(text, f.keptByIPTables)
	f.sets = append(f.sets, sets...)
	return err
}

// keptByIPTables tells whether iptables-nft has shown an nft table.
func (f firewall) keptByIPTables(family, table string) bool {
	tool := map[string]string{"ip": "iptables-nft ", "ip6": "ip6tables-nft "}[family]
	return tool != "" && slices.ContainsFunc(f.sets, func(s *ruleset) bool { return s.source == tool+table })
}

// backendsInUse are those of iptables that hold rules.
type backendsInUse int

const (
	neither backendsInUse = 0
	legacy  backendsInUse = 1
	nft     backendsInUse = 2
	both                  = legacy | nft
)

func (f firewall) backends() (used backendsInUse) {
	for _, s := range f.sets {
		switch tool, _, _ := strings.Cut(s.source, " "); {
		case s.empty() || tool == "nft":
		case strings.HasSuffix(tool, "-nft"):
			used |= nft
		default:
			used |= legacy
		}
	}
	return used
}

// fate sends a packet through the hooks named, of all tables.
func (f firewall) fate(p packet, hooks ...string) (worst fate) {
	for _, hook := range hooks {
		for _, s := range f.sets {
			if one := s.fateAt(hook, p); one.dropped && (!worst.dropped || one.certain && !worst.certain) {
				worst = one
			}
		}
	}
	return worst
}

func checkFirewall(_ context.Context, h *host) []Finding {
	f := h.firewall()
	findings := f.judge(h.options, h.links())
	if len(f.unseen) > 0 {
		findings = append(findings, Finding{
			Status: Unknown, Found: strings.Join(f.unseen, "; "), Means: "rules that were not seen may stand in the way",
			Remedy: "run the doctor as root, where iptables or nft is installed",
		})
	}
	if len(findings) == 0 {
		findings = append(findings, Finding{Status: OK, Found: "no rule stands in the way"})
	}
	return findings
}

// judge looks for rules in the way of the bridge, and for those that the bridge gets in the way of.
func (f firewall) judge(o Options, links []containerLink) (findings []Finding) {
	for _, way := range []struct{ listen, imds netip.AddrPort }{
		{o.Listen, netip.AddrPortFrom(imds.IPv4, imds.Port)},
		{o.Listen6, netip.AddrPortFrom(imds.IPv6, imds.Port)},
	} {
		if !way.listen.IsValid() {
			continue
		}
		findings = append(findings, f.judgeHost(o, way.listen, way.imds)...)
		if o.Containers && !way.listen.Addr().IsLoopback() {
			findings = append(findings, f.judgeContainers(way.listen, links)...)
		}
	}
	return append(findings, f.judgeRules()...)
}

// judgeHost follows the calls of the host's own processes and of the bridge.
func (f firewall) judgeHost(o Options, listen, service netip.AddrPort) (findings []Finding) {
	self := netip.PrefixFrom(listen.Addr(), listen.Addr().BitLen())
	call := packet{in: "lo", out: "lo", from: self, to: listen.Addr(), port: listen.Port(), local: true}
	if fate := f.fate(call, "output", "prerouting", "input"); fate.dropped {
		findings = append(findings, fate.finding(Fail, fmt.Sprintf("the host's own calls do not reach the listener %s", listen),
			"accept what comes in on lo: iptables -I INPUT -i lo -j ACCEPT"))
	}
	upstream := packet{to: service.Addr(), port: service.Port(), mark: o.Mark}
	if fate := f.fate(upstream, "output"); fate.dropped {
		findings = append(findings, fate.finding(Fail, fmt.Sprintf("the bridge itself does not reach the metadata service at %s", service.Addr()),
			fmt.Sprintf("accept what the bridge marks: iptables -I OUTPUT -d %s -m mark --mark %#x -j ACCEPT", service.Addr(), o.Mark)))
	}
	return findings
}

// judgeContainers follows a container's call to the listener.
func (f firewall) judgeContainers(listen netip.AddrPort, links []containerLink) (findings []Finding) {
	table := "iptables"
	if listen.Addr().Is6() {
		table = "ip6tables"
	}
	const leave = "or leave containers alone: redirect.containers: false"
	for _, link := range links {
		p := packet{in: link.name, from: link.subnet(listen.Addr().Is4()), to: listen.Addr(), port: listen.Port(), local: true}
		if fate := f.fate(p, "prerouting", "input"); fate.dropped {
			findings = append(findings, fate.finding(Fail,
				fmt.Sprintf("containers on %s do not reach the listener %s, and would lose the metadata service", link.name, listen),
				fmt.Sprintf("%s -I INPUT -i %s -d %s -p tcp --dport %d -j ACCEPT; %s", table, link.name, listen.Addr(), listen.Port(), leave)))
		}
	}
	if len(links) > 0 {
		return findings
	}
	p := packet{to: listen.Addr(), port: listen.Port(), local: true}
	if fate := f.fate(p, "prerouting", "input"); fate.dropped && fate.certain {
		findings = append(findings, fate.finding(Limit,
			fmt.Sprintf("there are no bridged containers now; one would not reach the listener %s", listen),
			fmt.Sprintf("%s -I INPUT -d %s -p tcp --dport %d -j ACCEPT; %s", table, listen.Addr(), listen.Port(), leave)))
	}
	return findings
}

// finding is for a packet that is dropped, or perhaps.
func (f fate) finding(certain Status, means, remedy string) Finding {
	if f.certain {
		return Finding{Status: certain, Found: f.by, Means: means, Remedy: remedy}
	}
	return Finding{Status: Limit, Found: f.by, Means: "perhaps " + means + "; it depends on what only the packet tells", Remedy: remedy}
}

// judgeRules looks for rules that name the metadata service, and for those that a bridge left.
func (f firewall) judgeRules() (findings []Finding) {
	for _, s := range f.sets {
		for _, name := range s.order {
			c := s.chains[name]
			if isOwnChain(name) {
				findings = append(findings, Finding{
					Status: OK, Found: fmt.Sprintf("%s: chain %s with %s", s.source, name, count(len(c.rules), "rule")),
					Means: "a bridge's; where none runs, one left it", Remedy: "imds-bridge cleanup removes it",
				})
				continue
			}
			for i := range c.rules {
				r := &c.rules[i]
				if (r.names(imds.IPv4) || r.names(imds.IPv6)) && !isOwnChain(r.target) {
					findings = append(findings, judgeRule(s, c, r)...)
				}
			}
		}
	}
	return findings
}

// ownChain begins the names of the chains that package iptables makes.
const ownChain = "IMDS-BRIDGE"

func isOwnChain(name string) bool { return strings.HasPrefix(strings.ToUpper(name), ownChain) }

// judgeRule is about a rule for the metadata service's address.
func judgeRule(s *ruleset, c *chain, r *rule) []Finding {
	found := fmt.Sprintf("%s: %s", s.source, r.text)
	switch {
	case r.redirects:
		return []Finding{{
			Status: Limit, Found: found,
			Means:  "something else takes these calls (kube2iam, kiam and the like do); with ebpf the bridge sees them first and it sees none, with iptables the order of rules decides",
			Remedy: "run one of the two, or set redirect.containers: false",
		}}
	case r.action == drop:
		return []Finding{{
			Status: Limit, Found: found,
			Means:  fmt.Sprintf("it keeps some callers from the metadata service (chain %s); redirected calls do not pass it, and get through", c.name),
			Remedy: "the same rule for the listener's address and port, or redirect.containers: false if it is for containers",
		}}
	default:
		return nil
	}
}
