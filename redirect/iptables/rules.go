package iptables

import (
	"fmt"
	"strings"
)

const (
	// chainPrefix begins the names of our chains: IMDS-BRIDGE for rules without a guard,
	// IMDS-BRIDGE-<token> for those of one.
	chainPrefix = "IMDS-BRIDGE"
	// commentPrefix begins the comment of every rule of ours, in chains of others too.
	commentPrefix = "imds-bridge-"
)

// rule is one line of iptables -S.
type rule struct {
	chain string // "" is no rule, but a chain
	spec  []string
}

func parseRule(line string) rule {
	fields := strings.Fields(line)
	if len(fields) < 2 || fields[0] != "-A" {
		return rule{}
	}
	return rule{fields[1], fields[2:]}
}

// after is what follows a flag, without the quotes that some versions put around it.
func (r rule) after(flag string) string {
	for i, field := range r.spec[:max(len(r.spec)-1, 0)] {
		if field == flag {
			return strings.Trim(r.spec[i+1], `"`)
		}
	}
	return ""
}

// ours tells whether a bridge made the rule.
func (r rule) ours() bool { return strings.HasPrefix(r.after("--comment"), commentPrefix) }

func (r rule) String() string { return "-A " + r.chain + " " + strings.Join(r.spec, " ") }

// isOurs tells whether a chain has one of our names.
func isOurs(chain string) bool {
	return chain == chainPrefix || strings.HasPrefix(chain, chainPrefix+"-")
}

// section is what a set of rules is in one table: a chain, and the jumps that lead to it.
type section struct {
	table string
	chain string
	rules [][]string
	jumps []rule
}

func comment(role string) []string {
	return []string{"-m", "comment", "--comment", commentPrefix + role}
}

func spec(parts ...[]string) (all []string) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func words(format string, a ...any) []string { return strings.Fields(fmt.Sprintf(format, a...)) }

// calls matches those that are for IMDS.
func (f family) calls() []string {
	return words("-d %s/%d -p tcp -m tcp --dport %d", f.imds.Addr(), f.imds.Addr().BitLen(), f.imds.Port())
}

// exempt are the rules that let the bridge's own calls pass.
func (r Rules) exempt() (rules [][]string) {
	if r.User != nil {
		var but []string
		if r.CheckPort != 0 {
			but = words("-p tcp -m tcp ! --sport %d", r.CheckPort)
		}
		return [][]string{spec(but, words("-m owner --uid-owner %d", *r.User), comment("exempt"), words("-j RETURN"))}
	}
	return [][]string{spec(words("-m mark --mark 0x%x/0xffff", r.Mark&0xffff), comment("exempt"), words("-j RETURN"))}
}

// redirecting is the section that brings calls to the listener. lifeline is the name of the set whose
// entry it needs; "" needs none.
func (r Rules) redirecting(f family, chain, lifeline string, outside []string) section {
	dnat := words("-j DNAT --to-destination %s", f.listen)
	s := section{table: "nat", chain: chain}
	if r.CheckMark != 0 {
		s.rules = append(s.rules, spec(words("-p tcp -m mark --mark 0x%x/0xffffffff", r.CheckMark), comment("check"), dnat))
	}
	s.rules = append(s.rules, r.exempt()...)
	var alive []string
	if lifeline != "" {
		alive = words("-m set --match-set %s dst", lifeline)
	}
	// A call that is under way when the kernel begins to track connections is new to it, and goes on as it began.
	jump := spec(f.calls(), words("--syn"), alive, comment("jump"), words("-j %s", chain))
	s.jumps = []rule{{"OUTPUT", jump}}
	if r.containers(f.listen) {
		// What a host outside sends here for IMDS is left as it is.
		for _, link := range outside {
			s.rules = append(s.rules, spec(words("-i %s", link), comment("outside"), words("-j RETURN")))
		}
		s.jumps = append(s.jumps, rule{"PREROUTING", jump})
	}
	s.rules = append(s.rules, spec(words("-p tcp"), comment("redirect"), dnat))
	return s
}

// refusing is the section that refuses calls which were not redirected. It needs no lifeline: that is
// what it is for.
func (r Rules) refusing(f family, chain string) section {
	s := section{table: "filter", chain: chain, rules: r.exempt()}
	s.rules = append(s.rules, spec(words("-p tcp"), comment("refuse"), words("-j REJECT --reject-with tcp-reset")))
	jump := spec(f.calls(), comment("jump"), words("-j %s", chain))
	s.jumps = []rule{{"OUTPUT", jump}}
	if r.containers(f.listen) {
		s.jumps = append(s.jumps, rule{"FORWARD", jump})
	}
	return s
}

// add puts a section in place, the jumps last. What it could not finish it takes away again.
func (t *tool) add(s section) error {
	err := t.build(s)
	if err == nil {
		return nil
	}
	err = explain(fmt.Errorf("add rules to chain %s of table %s: %w", s.chain, s.table, err))
	if _, undone := t.remove(s.table, func(chain string) bool { return chain == s.chain }); undone != nil {
		return fmt.Errorf("%w; and take them away again: %w", err, undone)
	}
	return err
}

func (t *tool) build(s section) error {
	if err := t.NewChain(s.table, s.chain); err != nil {
		return err
	}
	for _, r := range s.rules {
		if err := t.Append(s.table, s.chain, r...); err != nil {
			return err
		}
	}
	for _, j := range s.jumps {
		if err := t.Insert(s.table, j.chain, 1, j.spec...); err != nil {
			return err
		}
	}
	return nil
}
