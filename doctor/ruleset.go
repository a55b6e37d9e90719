package doctor

import (
	"fmt"
	"net/netip"
	"strings"
)

// answer is what is known of a condition without the packet at hand.
type answer int

const (
	no answer = iota
	maybe
	yes
)

func answerOf(b bool) answer {
	if b {
		return yes
	}
	return no
}

func (a answer) not() answer { return yes - a }

// packet is the first one of a connection, as far as it is known.
type packet struct {
	in, out string       // interfaces; "" for one that is not known
	from    netip.Prefix // the zero value for anywhere
	to      netip.Addr
	port    uint16
	mark    uint32
	local   bool // to is an address of the host
}

// condition tells whether a packet meets one match of a rule.
type condition func(packet) answer

// action is what a rule does with a packet that meets all its conditions.
type action int

const (
	next   action = iota // nothing that ends its way
	accept               // through this base chain
	drop                 // rejecting it with an answer, too
	jump
	goTo
	leave // the chain, back to where it came from
)

type rule struct {
	text       string
	conditions []condition
	action     action
	target     string // chain of jump and goTo
	to         []netip.Prefix
	redirects  bool // changes the destination
}

type chain struct {
	name   string
	hook   string // where the kernel runs it: prerouting, input, forward, output; "" for one that is jumped to
	nat    bool
	policy action
	rules  []rule
}

// ruleset is one table of one backend.
type ruleset struct {
	source string // like "iptables (nft) filter"
	v4, v6 bool   // the families that it sees
	chains map[string]*chain
	order  []string
}

func newRuleset(source string) *ruleset {
	return &ruleset{source: source, chains: make(map[string]*chain)}
}

func (s *ruleset) add(c *chain) *chain {
	s.chains[c.name] = c
	s.order = append(s.order, c.name)
	return c
}

// empty tells whether the table changes the way of no packet.
func (s *ruleset) empty() bool {
	for _, c := range s.chains {
		if len(c.rules) > 0 || c.policy == drop {
			return false
		}
	}
	return true
}

// fate is what becomes of a packet.
type fate struct {
	dropped bool
	certain bool
	by      string // what drops it
}

// fateAt sends a packet through all chains of a hook that filter. One that drops is enough.
func (s *ruleset) fateAt(hook string, p packet) (worst fate) {
	if p.to.Is4() && !s.v4 || !p.to.Is4() && !s.v6 {
		return fate{}
	}
	for _, name := range s.order {
		if c := s.chains[name]; c.hook == hook && !c.nat {
			w := walk{set: s, packet: p}
			if f := w.base(c); f.dropped && (!worst.dropped || f.certain) {
				worst = f
			}
		}
	}
	return worst
}

// walk is the way of one packet through one base chain.
type walk struct {
	set    *ruleset
	packet packet
	depth  int
	steps  int
	// perhaps is the first rule that may have dropped it, accepted says that one may have let it through.
	perhaps  string
	accepted bool
}

// maxDepth is beyond what the kernel allows (NFT_JUMP_STACK_SIZE), maxSteps ends a walk through rules
// that jump to each other over and over: what is left then counts as perhaps.
const (
	maxDepth = 20
	maxSteps = 100_000
)

func (w *walk) base(c *chain) fate {
	verdict, by := w.chain(c)
	if verdict == next || verdict == leave {
		verdict, by = c.policy, fmt.Sprintf("%s: policy DROP of %s", w.set.source, c.name)
	}
	switch {
	case verdict == drop:
		return fate{dropped: true, certain: !w.accepted, by: by}
	case w.perhaps != "":
		return fate{dropped: true, by: w.perhaps}
	default:
		return fate{}
	}
}

// chain returns accept or drop and the rule that decided so, or next at the end of the chain.
func (w *walk) chain(c *chain) (action, string) {
	if w.depth++; w.depth > maxDepth {
		return next, ""
	}
	defer func() { w.depth-- }()
	for i := range c.rules {
		r := &c.rules[i]
		if w.steps++; w.steps > maxSteps {
			w.accepted = true
			return next, ""
		}
		met := r.meets(w.packet)
		if met == no || r.action == next {
			continue
		}
		verdict, by := r.action, fmt.Sprintf("%s: %s", w.set.source, r.text)
		if verdict == jump || verdict == goTo {
			target := w.set.chains[r.target]
			if target == nil {
				continue
			}
			verdict, by = w.chain(target)
			if r.action == goTo && verdict == next {
				verdict = leave
			} else if r.action == jump && verdict == leave {
				verdict = next
			}
		}
		switch {
		case verdict == next:
		case met == yes:
			return verdict, by
		case verdict == drop && w.perhaps == "":
			w.perhaps = by
		default: // accept, or a return that skips what follows
			w.accepted = true
		}
	}
	return next, ""
}

// meets is the least certain of all conditions' answers.
func (r *rule) meets(p packet) answer {
	least := yes
	for _, c := range r.conditions {
		least = min(least, c(p))
	}
	return least
}

// names tells whether a rule is written for an address: for its network, too, but not for everything.
func (r *rule) names(a netip.Addr) bool {
	for _, prefix := range r.to {
		if prefix.Contains(a) && prefix.Bits() >= 16 {
			return true
		}
	}
	return false
}

// The conditions that are understood.

func negate(c condition) condition { return func(p packet) answer { return c(p).not() } }

func uncertain(packet) answer { return maybe }

func certain(a answer) condition { return func(packet) answer { return a } }

// anyOf is met by a packet that meets one of several.
func anyOf(list []condition) condition {
	return func(p packet) answer {
		best := no
		for _, c := range list {
			best = max(best, c(p))
		}
		return best
	}
}

// onInterface compares names; wildcard ends a name that stands for all with that beginning.
func onInterface(name, wildcard string, of func(packet) string) condition {
	return func(p packet) answer {
		have := of(p)
		prefix, wild := strings.CutSuffix(name, wildcard)
		switch {
		case have == "" && name == "lo":
			return no // what is not known comes from a container, or goes to the network
		case have == "":
			return maybe
		case wild:
			return answerOf(strings.HasPrefix(have, prefix))
		default:
			return answerOf(have == name)
		}
	}
}

func toAddress(prefix netip.Prefix) condition {
	return func(p packet) answer { return answerOf(prefix.Contains(p.to)) }
}

func fromAddress(prefix netip.Prefix) condition {
	return func(p packet) answer {
		switch {
		case prefix.Bits() == 0:
			return yes
		case !p.from.IsValid():
			return maybe
		case !prefix.Overlaps(p.from):
			return no
		case prefix.Bits() <= p.from.Bits():
			return yes
		default:
			return maybe
		}
	}
}

func toPort(low, high uint16) condition {
	return func(p packet) answer { return answerOf(low <= p.port && p.port <= high) }
}

func withMark(value, mask uint32) condition {
	return func(p packet) answer { return answerOf(p.mark&mask == value) }
}

// inState is about the first packet of a connection.
func inState(states []string) condition {
	for _, s := range states {
		if strings.EqualFold(s, "new") {
			return certain(yes)
		}
	}
	return certain(no)
}
