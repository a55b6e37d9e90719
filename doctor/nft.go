package doctor

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// nftObject is one entry of what `nft -j list ruleset` writes (libnftables-json(5)).
type nftObject struct {
	Chain *struct {
		Family, Table, Name, Type, Hook, Policy string
	}
	Rule *struct {
		Family, Table, Chain, Comment string
		Handle                        int
		Expr                          []nftStatement
	}
}

// nftStatement has one key: the statement's name.
type nftStatement map[string]json.RawMessage

// parseNft reads the rules of all tables but those that iptables-nft keeps, which it shows better.
func parseNft(text string, skip func(family, table string) bool) ([]*ruleset, error) {
	var all struct{ Nftables []nftObject }
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, fmt.Errorf("read nft's rules: %w", err)
	}
	var sets []*ruleset
	bySource := make(map[string]*ruleset)
	table := func(family, name string) *ruleset {
		source := "nft " + family + " " + name
		if bySource[source] == nil {
			s := newRuleset(source)
			s.v4, s.v6 = family != "ip6", family != "ip"
			bySource[source], sets = s, append(sets, s)
		}
		return bySource[source]
	}
	// bridge, arp and netdev do not see the connection that is asked about, or not as one.
	skips := func(family, name string) bool {
		return !slices.Contains([]string{"ip", "ip6", "inet"}, family) || skip(family, name)
	}
	for _, o := range all.Nftables {
		if c := o.Chain; c != nil && !skips(c.Family, c.Table) {
			added := table(c.Family, c.Table).add(&chain{name: c.Name, hook: c.Hook, nat: c.Type == "nat", policy: accept})
			if c.Policy == "drop" {
				added.policy = drop
			}
		}
	}
	for _, o := range all.Nftables {
		if r := o.Rule; r != nil && !skips(r.Family, r.Table) {
			if c := table(r.Family, r.Table).chains[r.Chain]; c != nil {
				text := fmt.Sprintf("rule %d of chain %s", r.Handle, r.Chain)
				if r.Comment != "" {
					text += fmt.Sprintf(" (%q)", r.Comment)
				}
				c.rules = append(c.rules, nftRules(text, r.Expr)...)
			}
		}
	}
	return sets, nil
}

// nftRules makes one rule of a list of statements, or one for each element of a verdict map.
func nftRules(text string, statements []nftStatement) (list []rule) {
	r := rule{text: text}
	for _, s := range statements {
		for name, body := range s {
			switch name {
			case "match":
				r.match(body)
			case "accept":
				r.action = accept
			case "drop", "reject":
				r.action = drop
			case "return":
				r.action = leave
			case "jump", "goto":
				r.action, r.target = nftJump(name, body)
			case "dnat", "redirect":
				r.redirects = true
			case "vmap":
				list = append(list, r.verdictMap(body)...)
			case "xt": // a match or a target of iptables' that nft does not show
				r.conditions = append(r.conditions, uncertain)
			}
		}
	}
	return append(list, r)
}

func nftJump(name string, body json.RawMessage) (action, string) {
	var to struct{ Target string }
	_ = json.Unmarshal(body, &to)
	if name == "goto" {
		return goTo, to.Target
	}
	return jump, to.Target
}

// verdictMap reads { key: …, data: { set: [[value, verdict], …] } }.
func (r rule) verdictMap(body json.RawMessage) (list []rule) {
	var m struct {
		Key  nftKey
		Data struct{ Set [][2]json.RawMessage }
	}
	if json.Unmarshal(body, &m) != nil {
		return nil // a named map: its verdicts are not here
	}
	for _, element := range m.Data.Set {
		var verdict nftStatement
		if json.Unmarshal(element[1], &verdict) != nil {
			continue
		}
		for _, one := range nftRules(r.text, []nftStatement{verdict}) {
			one.conditions = append(slices.Clone(r.conditions), m.Key.is(element[0]))
			list = append(list, one)
		}
	}
	return list
}

// nftKey is what a match looks at.
type nftKey struct {
	Meta    *struct{ Key string }
	Payload *struct{ Protocol, Field string }
	Ct      *struct{ Key string }
	And     []json.RawMessage `json:"&"`
}

func (r *rule) match(body json.RawMessage) {
	var m struct {
		Op    string
		Left  nftKey
		Right json.RawMessage
	}
	if json.Unmarshal(body, &m) != nil {
		r.conditions = append(r.conditions, uncertain)
		return
	}
	c := m.Left.is(m.Right)
	switch m.Op {
	case "==", "in":
		if m.Left.Payload != nil && m.Left.Payload.Field == "daddr" {
			r.to = append(r.to, nftPrefixes(m.Right)...)
		}
	case "!=":
		c = negate(c)
	default:
		c = uncertain
	}
	r.conditions = append(r.conditions, c)
}

// is makes the condition that a key has one of the values that right stands for.
func (k nftKey) is(right json.RawMessage) condition {
	var list []condition
	for _, value := range nftValues(right) {
		list = append(list, k.one(value))
	}
	return anyOf(list)
}

func (k nftKey) one(value json.RawMessage) condition {
	text := nftText(value)
	switch {
	case k.And != nil:
		return k.masked(text)
	case k.Meta != nil:
		switch k.Meta.Key {
		case "iifname", "iif":
			return onInterface(text, "*", func(p packet) string { return p.in })
		case "oifname", "oif":
			return onInterface(text, "*", func(p packet) string { return p.out })
		case "l4proto":
			return certain(answerOf(text == "tcp" || text == "6"))
		case "nfproto":
			return func(p packet) answer { return answerOf((text == "ipv4") == p.to.Is4()) }
		case "mark":
			return savedMark(text)
		}
	case k.Ct != nil && k.Ct.Key == "state":
		return inState([]string{text})
	case k.Payload != nil:
		return k.payload(value, text)
	}
	return uncertain
}

func (k nftKey) payload(value json.RawMessage, text string) condition {
	switch k.Payload.Field {
	case "daddr", "saddr":
		prefixes := nftPrefixes(value)
		if len(prefixes) != 1 {
			return uncertain
		}
		if (k.Payload.Protocol == "ip") != prefixes[0].Addr().Is4() {
			return certain(no)
		}
		if k.Payload.Field == "saddr" {
			return fromAddress(prefixes[0])
		}
		return toAddress(prefixes[0])
	case "dport":
		if k.Payload.Protocol != "tcp" && k.Payload.Protocol != "th" {
			return certain(no)
		}
		return nftPort(value)
	case "protocol", "nexthdr":
		return certain(answerOf(text == "tcp" || text == "6"))
	}
	if k.Payload.Protocol == "udp" || k.Payload.Protocol == "icmp" || k.Payload.Protocol == "icmpv6" {
		return certain(no)
	}
	return uncertain
}

// masked reads meta mark & 0xffff == 0x2069.
func (k nftKey) masked(text string) condition {
	var left nftKey
	if len(k.And) != 2 || json.Unmarshal(k.And[0], &left) != nil || left.Meta == nil || left.Meta.Key != "mark" {
		return uncertain
	}
	return savedMark(text + "/" + nftText(k.And[1]))
}

// nftValues lists what a right side stands for: the elements of a set or list, or itself.
func nftValues(right json.RawMessage) []json.RawMessage {
	var set struct{ Set []json.RawMessage }
	if json.Unmarshal(right, &set) == nil && set.Set != nil {
		return set.Set
	}
	var list []json.RawMessage
	if json.Unmarshal(right, &list) == nil {
		return list
	}
	return []json.RawMessage{right}
}

func nftText(value json.RawMessage) string {
	var text string
	if json.Unmarshal(value, &text) == nil {
		return text
	}
	return string(value)
}

func nftPort(value json.RawMessage) condition {
	var span struct{ Range []uint16 }
	if json.Unmarshal(value, &span) == nil && len(span.Range) == 2 {
		return toPort(span.Range[0], span.Range[1])
	}
	port, err := strconv.ParseUint(nftText(value), 10, 16)
	if err != nil {
		return uncertain // a named set, or a service's name
	}
	return toPort(uint16(port), uint16(port))
}

func nftPrefixes(right json.RawMessage) (list []netip.Prefix) {
	for _, value := range nftValues(right) {
		var p struct {
			Prefix struct {
				Addr string
				Len  int
			}
		}
		if json.Unmarshal(value, &p) == nil && p.Prefix.Addr != "" {
			if a, err := netip.ParseAddr(p.Prefix.Addr); err == nil {
				list = append(list, netip.PrefixFrom(a, p.Prefix.Len))
			}
		} else if a, err := netip.ParseAddr(nftText(value)); err == nil {
			list = append(list, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return list
}
